# Sourced by demo.sh and test.sh: virtual environments with the versions of constraints.txt, made once.

python_311() {
  local candidate
  for candidate in python3 python3.13 python3.12 python3.11 python; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "diffpolicy needs Python 3.11 or newer, and none was found on the PATH" >&2
  return 1
}

# make_venv FOLDER WHAT: WHAT is a requirement of this checkout ('.' or '.[test,docs]), or 'envs' for the environments
# alone on pymunk 7. Does nothing where the folder was made from the same pyproject.toml and constraints.txt.
make_venv() {
  local folder=$1 what=$2 stamp python
  stamp="$what $(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)"
  # What the tests need includes what the demo needs, so the two do not undo each other.
  grep -qxF -e "$stamp" -e ".[test,docs] ${stamp#* }" "$folder/made-from" 2>/dev/null && return
  echo "installing into $folder (once)"
  python=$(python_311)
  "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear "$folder"
  if [[ "$what" == envs ]]; then
    grep -v '^pymunk==' constraints.txt >"$folder/constraints.txt"
    "$folder/bin/python" -m pip install --quiet --constraint "$folder/constraints.txt" \
      'pymunk>=7,<8' numpy gymnasium zarr numcodecs pillow pytest
    "$folder/bin/python" -m pip install --quiet --no-deps --editable .
  else
    # torch first and pinned: asked for by a range, pip would fetch a build with gigabytes of GPU libraries.
    "$folder/bin/python" -m pip install --quiet --constraint constraints.txt "$(grep '^torch==' constraints.txt)"
    "$folder/bin/python" -m pip install --quiet --constraint constraints.txt --editable "$what"
  fi
  echo "$stamp" >"$folder/made-from"
}
