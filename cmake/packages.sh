# shellcheck shell=bash
# Sourced by the scripts: installs what they need, and says so.

# need PACKAGE[:COMMAND]...  Debian packages by name. With a COMMAND, one found on the PATH will do,
# wherever it came from. With nothing missing, this needs neither root nor a network.
need() {
  local missing=() item package as_root=()
  for item in "$@"; do
    package=${item%%:*}
    if [[ $item == *:* ]] && command -v "${item#*:}" >/dev/null; then continue; fi
    if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]]; then continue; fi
    missing+=("$package")
  done
  if ((${#missing[@]} == 0)); then return 0; fi
  if ! command -v apt-get >/dev/null; then
    echo "Not a Debian system, going on without checking for: ${missing[*]}"
    return 0
  fi
  if (($(id -u) != 0)); then
    if ! command -v sudo >/dev/null; then
      echo "Missing packages. As root, please: apt-get install ${missing[*]}" >&2
      return 1
    fi
    as_root=(sudo)
  fi
  echo "Installing Debian packages: ${missing[*]}"
  "${as_root[@]}" apt-get -qq update
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
}

# python_tool NAME==VERSION COMMAND  prints the path of a PyPI package's command, installed once into
# a virtual environment of its own.
python_tool() {
  local venv=$PWD/build/python/$1
  if [[ ! -x $venv/bin/$2 ]]; then  # removed again when the installation fails
    need python3:python3 python3-venv >&2
    echo "Installing the Python package $1 into $venv" >&2
    python3 -m venv "$venv"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install "$1" >&2 ||
      { rm -rf "$venv" && return 1; }
  fi
  echo "$venv/bin/$2"
}
