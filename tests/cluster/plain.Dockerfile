# Python without the SDK, and a user who is nobody's but the image's: a program that knows nothing of this project.
ARG BASE=python:3.12.13-slim-bookworm
FROM ${BASE}
USER 1234:1234
