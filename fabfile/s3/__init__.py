"""The connection to the bucket, S3's errors in our words, the bucket's own settings and policies.

The only importer of boto3.
"""
