"""Which files of a photo folder are looked at, by the ends of their names; what they hold is for images.py to find."""

# What a camera's sensor saw, each maker's own way: a row that says what to do, because a skipped photo is not missed.
RAW_SUFFIXES = {".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"}

PHOTO_SUFFIXES = RAW_SUFFIXES | {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".tif", ".tiff"),
    *(".heic", ".heics", ".heif", ".heifs", ".hif", ".avif", ".avifs", ".bmp", ".dib", ".gif"),
}
