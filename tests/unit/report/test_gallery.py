"""The gallery shows the portraits in the table's order, and says of each how to draw it again."""

import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from infotext_reader import parameters, text_chunks
from likeness.core.manifests import read_table, write_table
from likeness.core.provenance import SCRIPTS, file_sha256
from likeness.drawing.infotext import Recipe, recipe
from likeness.drawing.marking import TRAINED_ALGORITHMIC_MEDIA, marked_png
from likeness.drawing.sampling import SAMPLERS
from likeness.report import comfyui
from made_pages import build_gallery, build_index
from made_portraits import BOX, COLUMNS, FACE_PROMPT, LORA, PHOTO, PROMPT, infotext, place_infotext
from made_run import build_report


def titles(html: str) -> list[str]:
    """The headings of the pictures, in the order of the page, each once."""
    return list(dict.fromkeys(unescape(title) for title in re.findall(r"<h3>(.*?)</h3>", html)))


class Addresses(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]


def addresses(html: str) -> list[str]:
    parser = Addresses()
    parser.feed(html)
    return parser.found


def copy_of(page: Path, folder: Path) -> Path:
    """The table of a gallery with its pictures in another folder."""
    for name in ("portraits", "places"):
        shutil.copytree(page.parent / name, folder / name)
    write_table(folder / "portraits.tsv", read_table(page.parent / "portraits.tsv").to_dict("records"), COLUMNS)
    return folder / "portraits.tsv"


def refusal(table: Path) -> str:
    """The error of the script on this table."""
    page = table.with_name("portraits.html")
    options = ["--cache", table.parent / "cache", "--page", page, "--folder", table.with_name("gallery")]
    config = ["--config", '{"subject_name": "ava", "run_name": "portrait"}']
    command = [sys.executable, SCRIPTS / "build_gallery.py", "--portraits", table, *options, *config]
    outcome = subprocess.run(command, capture_output=True, text=True)
    assert outcome.returncode == 1 and not page.exists()
    return outcome.stdout


def test_kept_pictures_come_first_in_the_order_of_the_table_and_the_others_follow_with_their_reason(gallery_page):
    html = gallery_page.read_text()
    assert titles(html) == [
        *("full_body, seed 1", "full_body, seed 2", "full_body, seed 3", "plain & simple, seed 7"),
        *(f"terrace, {PHOTO}, seed 5", f"terrace, {PHOTO}, seed 6"),
    ]
    folded = re.findall(r'<details class="others">(.*?)</section>', html, re.S)
    assert [titles(part) for part in folded] == [["full_body, seed 3"], [f"terrace, {PHOTO}, seed 6"]]
    assert "the face is less like the person: 0.41" in folded[1]
    assert "No face was found, so none was redrawn." in folded[0]


def test_the_same_table_gives_the_same_page_and_previews(gallery_page, tmp_path):
    page = tmp_path / "portraits.html"
    build_gallery(copy_of(gallery_page, tmp_path), page)
    assert page.read_bytes() == gallery_page.read_bytes()
    folders = [path.parent / "gallery" for path in (page, gallery_page)]
    assert len({tuple(sorted(file.name for file in folder.iterdir())) for folder in folders}) == 1


def test_it_refers_only_to_files_beside_it_and_to_pages_of_the_same_results(gallery_page):
    html = gallery_page.read_text()
    found = {address for address in addresses(html) if not address.startswith(("data:", "#"))}
    pages = {"report.html", "../../index.html"}
    assert pages < found
    files = {unquote(address) for address in found - pages}
    assert all((gallery_page.parent / file).is_file() for file in files)
    rows = read_table(gallery_page.parent / "portraits.tsv")
    assert set(rows["image"][rows["final"] == "1"]) <= files
    assert {file.name for file in (gallery_page.parent / "gallery").iterdir()} == {
        Path(file).name for file in files if file.startswith("gallery/")
    }
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|import\(|<script src|\son\w+=|(https?:)?//\w+\.", html)


def test_every_text_is_escaped_and_every_picture_has_words(gallery_page):
    html = gallery_page.read_text()
    assert "<b>bold" not in html and "<i>.jpg" not in html and PROMPT not in html
    assert PROMPT in unescape(html) and PHOTO in unescape(html)
    pictures = re.findall(r"<img [^>]*>", html)
    words = [unescape(re.search(r'alt="(.*?)"', picture)[1]) for picture in pictures]
    assert len(words) > 10 and all(words)
    assert all(("made by AI" in alt) != ("your picture" in alt) for alt in words)
    assert "All of these pictures are made by AI" in html


def test_close_ups_show_the_face_before_and_after_and_only_made_pictures_are_marked(gallery_page):
    folder = gallery_page.parent
    html = gallery_page.read_text()
    faces = re.findall(r'<img (?:class="after" )?src="(gallery/\w+\.jpg)" alt="(The face of .*?)"', html)
    assert len(faces) == 2 * 4, "of each picture whose face was redrawn: before and after"
    marked = [TRAINED_ALGORITHMIC_MEDIA in str(Image.open(folder / file).info.get("xmp")) for file, _ in faces]
    assert marked == ["your picture" not in alt for _, alt in faces]
    before, after = (np.asarray(Image.open(folder / file)).astype(float) for file, _ in faces[:2])
    x, y, w, h = BOX
    side = round(1.8 * h)
    left, top = x + w // 2 - side // 2, 0  # the box is near the upper edge
    for shown, stage in ((before, "hires"), (after, "face")):
        picture = np.asarray(Image.open(folder / f"portraits/full_body/0001_{stage}.png"))
        assert shown.shape == (side, side, 3)
        assert np.abs(shown - picture[top : top + side, left : left + side]).mean() < 4, "a JPEG of the same pixels"
    assert np.abs(before - after).mean() > 8


def test_a_close_up_at_the_edge_stays_within_the_picture():
    from likeness.report.gallery import _close_up

    row = {"width": "100", "height": "60"}
    assert _close_up(row | {"box": "[90, 50, 10, 10]"}) == (82, 42, 100, 60)
    assert _close_up(row | {"box": "[0, 0, 100, 60]"}) == (20, 0, 80, 60), "at most the shorter side"


def test_the_infotext_of_the_file_is_on_the_page_as_it_is(gallery_page):
    shown = [unescape(text) for text in re.findall(r'<pre class="words">(.*?)</pre>', gallery_page.read_text(), re.S)]
    rows = read_table(gallery_page.parent / "portraits.tsv")
    files = [gallery_page.parent / image for image in rows["image"][rows["final"] == "1"]]
    assert shown[::2] == [text_chunks(file)["parameters"] for file in files]


def test_comfyui_gets_the_nodes_of_every_pass_without_the_tags_of_loras():
    steps = comfyui.comfyui_steps(recipe(infotext(3, PROMPT, hires=True, face=True)), 256, 384)
    sampler = "cfg 7, sampler_name dpmpp_2m, scheduler karras"
    assert steps.splitlines() == [
        "1. Load Checkpoint: demo",
        "2. Load LoRA: ava_portrait, strength_model 0.8, strength_clip 0.8",
        "3. CLIP Set Last Layer: -2",
        f"4. CLIP Text Encode (positive): {PROMPT}",
        "5. CLIP Text Encode (negative): blurry",
        "6. Empty Latent Image: 128 x 192 px",
        f"7. KSampler: seed 3, steps 25, {sampler}, denoise 1",
        "8. VAE Decode",
        "9. Upscale Image to 256 x 384 px (Lanczos), then VAE Encode",
        f"10. KSampler: seed 3, steps 25, {sampler}, denoise 0.4",
        "11. VAE Decode",
        f"12. for the face: CLIP Text Encode (positive): {FACE_PROMPT}, close",
        f"13. FaceDetailer (of the Impact Pack), seed 3, steps 25, {sampler}, denoise 0.5",
        "14. Save Image",
    ]


def test_comfyui_loads_the_lora_for_the_face_where_the_scene_has_none_or_another_weight():
    text = infotext(3, PROMPT, hires=False, face=True)
    weaker = f"{PROMPT} <lora:ava_portrait:0.4>"
    for scene, expected in ((PROMPT, True), (weaker, True), (f"{PROMPT} {LORA}", False)):
        lines = comfyui.comfyui_steps(recipe(text.replace(f"{PROMPT} {LORA}", scene)), 128, 192).splitlines()
        for_face = [line for line in lines if "for the face: Load LoRA: ava_portrait, strength_model 0.8" in line]
        assert bool(for_face) == expected, scene


def test_comfyui_redraws_the_face_of_a_place_once_from_the_users_picture():
    lines = comfyui.comfyui_steps(recipe(place_infotext(5)), 256, 384, "places/terrace/0005_original.png").splitlines()
    assert "6. Load Image: places/terrace/0005_original.png" in lines
    assert not any("Empty Latent" in line or "FaceDetailer" in line for line in lines)
    assert sum("KSampler" in line for line in lines) == 1 and any("denoise 0.55" in line for line in lines)


def test_comfyui_knows_every_sampler():
    assert set(comfyui.SAMPLERS) == set(SAMPLERS)


@pytest.mark.parametrize("value", ["a, b: c", 'say "hello", twice', "two\nlines", "back\\slash, here"])
def test_an_infotext_is_read_as_other_programs_read_it(value):
    from likeness.drawing.infotext import with_pairs

    text = with_pairs(infotext(1, "a\nprompt of two lines", hires=True, face=True), {"Note": value})
    read = recipe(text)
    assert read.pairs["Note"] == value
    assert {"Prompt": read.prompt, "Negative prompt": read.negative_prompt, **read.pairs} == parameters(text)
    assert recipe("words\nNegative prompt: \nSteps: 2, Sampler: DDIM, Seed: 1") == Recipe(
        "words", "", {"Steps": "2", "Sampler": "DDIM", "Seed": "1"}
    )


def test_a_picture_that_was_changed_is_refused_with_the_rule_that_makes_it(gallery_page, tmp_path):
    table = copy_of(gallery_page, tmp_path)
    image = "places/terrace/0005_face.png"
    (tmp_path / image).write_bytes(marked_png(np.zeros((384, 256, 3), np.uint8), "words"))
    (line,) = refusal(table).splitlines()
    assert f"{image} is missing or was changed" in line and line.endswith("--forcerun place_face")


def test_a_picture_that_does_not_say_how_it_was_drawn_is_refused(gallery_page, tmp_path):
    table = copy_of(gallery_page, tmp_path)
    image = tmp_path / "portraits/full_body/0001_face.png"
    image.write_bytes(marked_png(np.zeros((384, 256, 3), np.uint8)))
    rows = read_table(table).to_dict("records")
    for row in rows:
        if tmp_path / row["image"] == image:
            row["sha256"] = file_sha256(image)
    write_table(table, rows, COLUMNS)
    (line,) = refusal(table).splitlines()
    assert "does not say how it was drawn" in line and line.endswith("--forcerun draw_scene")


def test_a_table_without_a_picture_is_refused(tmp_path):
    write_table(tmp_path / "portraits.tsv", [], COLUMNS)
    (line,) = refusal(tmp_path / "portraits.tsv").splitlines()
    assert "has no picture" in line and line.endswith("--forcerun score_portraits")


def test_the_first_page_links_to_the_galleries_that_exist_and_to_no_other(index_page):
    gallery = index_page.parent / "ava/portrait/portraits.html"
    page = index_page.with_name("with_gallery.html")
    build_index(index_page.parent, page, [gallery])
    ours = [address for address in addresses(page.read_text()) if address.endswith("portraits.html")]
    assert ours == ["ava/portrait/portraits.html"]
    assert not any(address.endswith("portraits.html") for address in addresses(index_page.read_text()))


def test_the_report_links_to_its_gallery_if_there_is_one(page):
    again = page.with_name("with_gallery.html")
    build_report(page.parent, again, ["portraits.html"])
    assert "portraits.html" in addresses(again.read_text())
    assert "portraits.html" not in addresses(page.read_text())
