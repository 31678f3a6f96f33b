"""Multimodal pretraining of transformers for action recognition in instructional videos: models, metrics and experiments of the report."""
