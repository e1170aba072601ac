"""Files and memory: reading what others wrote, arrays that lie in files, and writing outputs whole or not at all."""
