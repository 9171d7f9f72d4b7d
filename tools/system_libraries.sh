#!/bin/sh
# What pip cannot bring. faces: the graphics libraries that mediapipe and OpenCV load even when they compute on the CPU;
# without them nothing works, so this ends with status 1. browser: Chromium, with which the tests open the report. slurm: the
# daemons of a cluster, which the tests start. Without these two their tests are skipped, so this only says so.
# What is missing is installed where that needs no question (root on Debian or Ubuntu; for slurm also without systemd,
# which would start its services), else the command is printed.
set -u

is_there() {
    case "$1" in
    faces) [ "$(uname -s)" != Linux ] || .venv/bin/python -c '
import ctypes
for library in ("libEGL.so.1", "libGLESv2.so.2", "libGL.so.1", "libgthread-2.0.so.0"):
    ctypes.CDLL(library)' 2>/dev/null ;;
    browser) command -v chromedriver >/dev/null ;;
    slurm) for program in munged mariadbd slurmdbd slurmctld slurmd sbatch; do
        command -v "$program" >/dev/null || return 1
    done ;;
    *) echo "usage: tools/system_libraries.sh faces|browser|slurm" >&2 && exit 2 ;;
    esac
}

case "$1" in
faces) what="libEGL, libGLESv2, libGL and GLib, which face detection needs" debian="libegl1 libgles2 libgl1 libglib2.0-0"
    fedora="libglvnd-egl libglvnd-gles libglvnd-glx glib2" arch="libglvnd glib2" ;;
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
