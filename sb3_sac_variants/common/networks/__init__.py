"""Actors, critics and the policies that hold them."""
