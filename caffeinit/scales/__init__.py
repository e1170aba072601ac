"""Which scales a graph leaves free, ties or pins, and how a change of one passes on to the rest."""
