"""Caffe's messages: their classes, and the blobs that lie in files of weights and of means."""
