#!/bin/sh
# Render what is checked in here. A test fails when this was forgotten after a change.
set -eu
cd "$(dirname "$0")/.."
python -m serinus k8s render recipes/quickstart.yaml --overlay dev
python -m serinus k8s render --overlay gpu
python -m serinus k8s render recipes/gpu.yaml --overlay production
