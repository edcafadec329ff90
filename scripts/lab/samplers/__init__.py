"""The study of samplers on learned fields, see scripts/lab/study_samplers.py."""
