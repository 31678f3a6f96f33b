"""Multimodal pretraining of transformers for action recognition in instructional videos: the library of the report."""
