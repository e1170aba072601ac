"""What a net does on pictures: moments of its values, where numbers stop being finite, and the rates of its weights."""
