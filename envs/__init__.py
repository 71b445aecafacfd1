"""Environments: tasks that come with grpojax."""
