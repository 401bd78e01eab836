"""Choosing real texts that stand for all: features of the training texts, and the methods that pick rows by them."""
