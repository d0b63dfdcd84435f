"""The version of this distribution, readable without importing anything."""

VERSION = "0.1.0"
