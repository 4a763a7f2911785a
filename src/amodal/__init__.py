"""amodal"""
