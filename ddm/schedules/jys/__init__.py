"""Jump Your Steps: KLUB, golden section, hierarchical breakdown."""
