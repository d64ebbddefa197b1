"""Autoscaling on the whole engine. Too long for every run: `make autoscaling`."""
