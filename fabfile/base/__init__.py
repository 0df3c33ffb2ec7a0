"""What every other package may use, and what uses none of them: errors, units, the redacting
secret, YAML and JSON from outside, reading untrusted mappings, the check with its verdict.
"""
