"""What a net is, wherever it came from: a graph of ONNX operators, the arrays that it has learned, and its units."""
