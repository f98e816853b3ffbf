#!/usr/bin/env bash
# Fills a folder with what device_check.py needs on a machine without network, where Python 3.12 has jax, flax, optax,
# orbax, pyarrow and torch: `benchmarks/device/bundle.sh [FOLDER=.bundle]`. PYTHON is one that has this project's
# dependencies (default python3). Fails where the folder would hold more than 60 MiB.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=${1:-.bundle}
python=${PYTHON:-python3}
most=$((60 * 1024 * 1024))
rm -rf "$folder"
mkdir -p "$folder/wheels"

# What is missing there: of our own dependencies, in the versions that pyproject.toml asks for, and what those import.
mapfile -t ours < <("$python" - <<'END'
import re, tomllib
missing = {"grain", "tensorflow-datasets", "array-record", "ml-collections", "imagecodecs", "zstandard"}
dependencies = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]
found = [d for d in dependencies if re.match(r"[\w-]+", d)[0] in missing]
assert len(found) == len(missing), found
print(*found, sep="\n")
END
)
theirs=(dm-tree docstring-parser googleapis-common-protos immutabledict portpicker simple-parsing six
  tensorflow-metadata termcolor toml)
platforms=()
for glibc in 17 24 27 28 31 34; do platforms+=(--platform "manylinux_2_${glibc}_x86_64"); done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  "${platforms[@]}" --platform manylinux2014_x86_64 --dest "$folder/wheels" "${ours[@]}" "${theirs[@]}"
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$folder/wheels" promise # there is no wheel of it; pure Python

PYTHONPATH=.:benchmarks "$python" -m device.data --pack="$folder/data.tar.xz"

size=$(find "$folder" -type f -printf '%s\n' | awk '{ sum += $1 } END { print sum }')
echo "$folder: $(find "$folder/wheels" -name '*.whl' | wc -l) wheels, $(awk "BEGIN { printf \"%.1f\", $size / 1048576 }") MiB"
if [ "$size" -gt "$most" ]; then
  echo "error: $folder holds $size bytes, more than the $most that may travel" >&2
  exit 1
fi
