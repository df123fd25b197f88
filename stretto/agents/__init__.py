"""Agents whose hands are code. Models are known by protocols only; torch is never needed."""
