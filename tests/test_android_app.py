"""The Android app as far as no Android is needed: its own tests on a JVM, its manifest, its resources, its versions."""

import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from android_java import run_junit

ROOT = Path(__file__).parent.parent
APP = ROOT / "android_demo" / "app"
MAIN = APP / "src" / "main"
RES = MAIN / "res"
JAVA = {path.stem: path.read_text("utf-8") for path in (MAIN / "java" / "qexport" / "app").glob("*.java")}
LAYOUTS = sorted((RES / "layout").glob("*.xml"))
ANDROID = "{http://schemas.android.com/apk/res/android}"
TOUCHED = {"Press", "Press.Plain", "Icon", "Field"}  # styles whose size is a finger's


def test_its_own_tests(tmp_path):
    run_junit("app", "--build", tmp_path)


def xml(path):
    return ElementTree.parse(path).getroot()


def named(path):
    """Names and values of a resource file."""
    return {item.get("name"): item.text for item in xml(path) if item.get("name")}


def views(path):
    """All elements of a layout, each with a way to read android: attributes."""
    for element in xml(path).iter():
        yield element, lambda name, element=element: element.get(ANDROID + name)


def test_the_manifest_asks_for_nothing():
    manifest = xml(MAIN / "AndroidManifest.xml")
    assert [child.tag for child in manifest] == ["application"]
    application = manifest[0]
    assert application.get(ANDROID + "supportsRtl") == "true"
    assert application.get(ANDROID + "allowBackup") == "false"
    shown = {activity.get(ANDROID + "name"): activity for activity in application}
    assert all(
        name.startswith("qexport.app.") and name.removeprefix("qexport.app.") in JAVA
        for name in [*shown, application.get(ANDROID + "name")]
    )
    declared = {name.removeprefix("qexport.app.") for name in shown}
    assert declared == {name for name in JAVA if name.endswith("Activity")} - {"PageActivity"}
    exported = [name for name, activity in shown.items() if activity.get(ANDROID + "exported") != "false"]
    assert exported == ["qexport.app.PickerActivity"]


def test_gradles_manifest_only_removes():
    manifest = xml(APP / "src" / "gradle" / "AndroidManifest.xml")
    node = "{http://schemas.android.com/tools}node"
    (application,) = manifest.findall("application")
    removed = [*(child for child in manifest if child is not application), *application]
    assert {child.get(ANDROID + "name").rpartition(".")[2] for child in removed} >= {
        "INTERNET",
        "TelemetryInitializer",
    }
    assert not application.attrib and {child.get(node) for child in removed} == {"remove"}


def test_versions_and_tasks_are_those_that_bundles_are_made_for():
    carried = json.loads((APP / "runtimes.json").read_text("utf-8"))
    versions = named(RES / "values" / "runtimes.xml")
    assert versions == {f"version_{name}": about["version"] for name, about in carried["runtimes"].items()}
    gradle = (APP / "build.gradle").read_text("utf-8")
    for name in carried["runtimes"]:
        assert f"-android:${{runtimes.{name}.version}}" in gradle
    assert not re.search(r":\d+\.\d+", gradle)  # no version beside those of runtimes.json
    assert "minSdk 26" in gradle and "targetSdk 35" in gradle
    (tasks,) = re.findall(r"TASKS = .*?asList\((.*?)\)", JAVA["Entry"], re.S)
    assert re.findall(r'"([^"]+)"', tasks) == carried["tasks"]


def test_both_languages_say_the_same():
    english, german = (named(RES / folder / "strings.xml") for folder in ("values", "values-de"))
    assert list(english) == list(german)
    for name, text in english.items():
        places = re.findall(r"%\d\$[.\d]*[a-z]", text)
        assert sorted(places) == sorted(re.findall(r"%\d\$[.\d]*[a-z]", german[name])), name
        assert len({place[:3] for place in places}) == len(places), name


def test_every_string_is_used():
    used = set(re.findall(r"R\.string\.(\w+)", "".join(JAVA.values())))
    for path in [MAIN / "AndroidManifest.xml", *LAYOUTS]:
        used |= set(re.findall(r"@string/(\w+)", path.read_text("utf-8")))
    assert used == set(named(RES / "values" / "strings.xml")) | set(named(RES / "values" / "runtimes.xml"))


@pytest.mark.parametrize("path", LAYOUTS, ids=lambda path: path.stem)
def test_a_layout_is_for_everyone(path):
    labelled = {get("labelFor").partition("/")[2] for _, get in views(path) if get("labelFor")}
    for element, get in views(path):
        name = get("id") or element.tag
        for attribute in ("text", "hint", "contentDescription"):
            assert (get(attribute) or "@string/").startswith("@string/"), (
                f"{name}: text that is not translated"
            )
        assert not any(re.search("Left|Right", key) for key in element.attrib), f"{name}: not right-to-left"
        assert not re.search("left|right", get("gravity") or ""), f"{name}: not right-to-left"
        assert (get("textSize") or "16sp").endswith("sp"), (
            f"{name}: does not grow with the system's font size"
        )
        if element.tag in ("Button", "ImageButton", "EditText", "Switch"):
            style = (element.get("style") or "").removeprefix("@style/")
            assert style in TOUCHED or get("minHeight") == "@dimen/touch", f"{name}: too small for a finger"
        if element.tag == "ImageButton":
            named_in_java = (
                get("id") == "@+id/entry_more" and "more.setContentDescription" in JAVA["PickerActivity"]
            )
            assert get("contentDescription") or named_in_java, f"{name}: a picture without words"
        if element.tag == "EditText":
            assert get("id").partition("/")[2] in labelled or get("hint"), f"{name}: a field without a label"
        if element.tag == "ProgressBar":
            assert get("contentDescription"), f"{name}: a bar without words"
        if name in ("@+id/status", "@+id/work_text"):
            assert get("accessibilityLiveRegion") == "polite", f"{name}: a change that is not said"


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("folder", ["values", "values-night"])
def test_texts_stand_out(folder):
    """WCAG's 4.5 to 1."""
    colours = named(RES / "values" / "colors.xml") | named(RES / folder / "colors.xml")
    pairs = [(text, on) for text in ("text", "quiet", "problem") for on in ("page", "card", "mine")]
    for text, on in [*pairs, ("accent", "page"), ("on_accent", "accent")]:
        light, dark = sorted((luminance(colours[text]), luminance(colours[on])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {on}"


def test_dark_and_light_have_the_same_colours():
    light, dark = (named(RES / folder / "colors.xml") for folder in ("values", "values-night"))
    assert set(light) - set(dark) == {"icon"} and not set(dark) - set(light)


def test_previews_show_every_page_in_its_own_words():
    sys.path.insert(0, str(ROOT / "android_demo"))
    try:
        import previews
    finally:
        sys.path.pop(0)
    sheet = previews.sheet()
    assert "@string" not in sheet and "%1$" not in sheet
    pages = {path.stem for path in LAYOUTS} - {"header", "entry", "message", "result", "paragraph"}
    assert set(previews.EXAMPLES) == pages
    for name in ("import_folder", "send", "judge", "choose_wave", "self_test_what", "energy_why"):
        for folder in ("values", "values-de") if name in ("import_folder", "send") else ("values",):
            assert named(RES / folder / "strings.xml")[name] in sheet
