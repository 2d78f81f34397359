"""The commands of `icehouse dups`, and what they need of encoders and pages."""
