"""Agents whose hands are code: tools, a sandbox, feedback. No torch here."""
