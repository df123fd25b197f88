"""Agents whose hands are code: models are known by protocols only, and torch is never needed."""
