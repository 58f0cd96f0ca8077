"""Experiments: the instrument that proves what convjax claims.

Configs in, records out, reports made from records alone.
"""
