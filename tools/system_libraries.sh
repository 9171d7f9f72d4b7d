#!/bin/sh
# What pip cannot bring. faces: the graphics libraries that mediapipe loads even when it computes on the CPU; without
# them nothing works, so this ends with status 1. browser: Chromium, with which the tests open the report. slurm: the
# daemons of a cluster, which the tests start. Without these two their tests are skipped, so this only says so.
# What is missing is installed where that needs no question (root on Debian or Ubuntu; for slurm also without systemd,
# which would start its services), else the command is printed.
set -u

is_there() {
    case "$1" in
    faces) [ "$(uname -s)" != Linux ] || .venv/bin/python -c '
import ctypes
ctypes.CDLL("libEGL.so.1")
ctypes.CDLL("libGLESv2.so.2")' 2>/dev/null ;;
    browser) command -v chromedriver >/dev/null ;;
    slurm) for program in munged mariadbd slurmdbd slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null || return 1
    done ;;
    *) echo "usage: tools/system_libraries.sh faces|browser|slurm" >&2 && exit 2 ;;
    esac
}

case "$1" in
faces) what="libEGL and libGLESv2, which face detection needs" debian="libegl1 libgles2" fedora="libglvnd-egl libglvnd-gles" arch=libglvnd ;;
browser) what="Chromium and its driver, which the tests of the report need" debian="chromium chromium-driver" fedora="chromium chromedriver" arch=chromium ;;
*) what="SLURM, munge and MariaDB, which the tests on a cluster need" debian="slurmctld slurmd slurm-client slurmdbd munge mariadb-server" fedora="slurm slurm-slurmctld slurm-slurmd slurm-slurmdbd munge mariadb-server" arch="" ;;
esac

is_there "$1" && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null && { [ "$1" != slurm ] || [ ! -d /run/systemd/system ]; }; then
    # shellcheck disable=SC2086  # a list of packages
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $debian
    is_there "$1" && exit 0
fi
cat >&2 <<END
missing on this machine: $what. Install:
  Debian, Ubuntu   sudo apt-get install $debian
  Fedora           sudo dnf install $fedora
${arch:+  Arch             sudo pacman -S $arch}
END
[ "$1" != faces ]
