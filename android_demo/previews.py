"""Draws the app's pages from its layout files, strings, colours and styles, in a browser.

    python android_demo/previews.py OUT.html              every page, light and dark, in both languages, mirrored
    python android_demo/previews.py OUT.html --png        also OUT.png, with Chromium

It is no Android: boxes, weights, margins, texts, colours and directions come from the files in app/src/main/res, fonts
and the look of buttons, fields and bars are the browser's. What Java puts into a page at run time is an example from
the table EXAMPLES here, in the app's own words where they are strings of its.
"""

import argparse
import html
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

RES = Path(__file__).resolve().parent / "app" / "src" / "main" / "res"
ANDROID = "{http://schemas.android.com/apk/res/android}"
Attributes = dict[str, str]

# page -> id -> what Java shows there: "@string/name" with values behind it, a plain text, or None for a hidden view
Example = tuple[str | float, ...] | str | None
HEADER: dict[str, Example] = {"title": "SmolLM2-135M-Instruct, mixed_int4", "work": None}
FREE: tuple[str | float, ...] = ("@string/energy_free", 4)
EXAMPLES: dict[str, dict[str, Example]] = {
    "picker": {
        "back": None, "work": None, "energy": FREE, "device": ("@string/device", "3.1 GB", "arm64-v8a"),
    },
    "work": {
        "title": HEADER["title"], "work_text": ("@string/checking_model",), "content": None,
    },
    "chat": {
        **HEADER, "energy": FREE, "status": ("@string/statistics", 14, 21.4, 0.31, "212 MB"),
    },
    "search": {
        **HEADER, "title": "all-MiniLM-L6-v2, minilm_int8", "status": ("@string/took", 0.21),
        "texts": "The library opens at nine.\nBread needs salt.", "query": "When can I borrow books?",
    },
    "sentiment": {
        **HEADER, "title": "sentiment, int8", "status": ("@string/took", 0.02), "query": "What a lovely day!",
    },
    "speech": {**HEADER, "title": "whisper-tiny.en, mixed_int4", "stop": None, "status": ("@string/listening", 12, 31)},
    "self_test": {**HEADER, "more": None, "title": ("@string/self_test",), "status": ("@string/self_test_at", 3, 6)},
    "settings": {
        "more": None, "title": ("@string/settings",), "energy": FREE,
        "temperature": "0.7", "top_k": "40", "top_p": "NaN", "seed": "1", "most_tokens": "256",
        "top_p_problem": "Top-p is \"NaN\", not a number; write one like 0.9",
    },
}  # fmt: skip
# container -> (layout, what its ids show) of each child that Java puts in
CHILDREN: dict[str, list[tuple[str, dict[str, Example]]]] = {
    "picker/entries": [
        ("entry", {
            "name": "SmolLM2-135M-Instruct", "why_not": None,
            "facts": ("@string/facts_sizes", "@string/task_chat", "onnxruntime", 2, "141 MB", "212 MB",
                      "@string/of_the_app"),
        }),
        ("entry", {
            "name": "Qwen2.5-Coder-0.5B-Instruct, mixed_int4",
            "facts": ("@string/facts", "@string/task_chat", "executorch", "398 MB", "690 MB", "@string/imported"),
            "why_not": "Qwen2.5-Coder-0.5B-Instruct, mixed_int4 is for executorch, which this build of the app does not"
            " carry; install the build that does, or bundle the model's file for onnxruntime",
        }),
    ],
    "chat/messages": [
        ("message", {"who": ("@string/you",), "said": "What is the capital of France?", "": "@drawable/mine"}),
        ("message", {"who": ("@string/model",), "said": "The capital of France is Paris."}),
        ("message", {"who": ("@string/you",), "said": "وما عاصمة مصر؟", "": "@drawable/mine"}),
    ],
    "search/results": [
        ("result", {"result_text": "The library opens at nine.", "result_value": ("@string/likeness", 0.612)}),
        ("result", {"result_text": "Bread needs salt.", "result_value": ("@string/likeness", 0.048)}),
    ],
    "sentiment/results": [
        ("result", {"result_text": "positive", "result_value": ("@string/probability", 97.3)}),
        ("result", {"result_text": "negative", "result_value": ("@string/probability", 2.7)}),
    ],
    "speech/results": [("result", {"result_text": "He hoped there would be stew for dinner"})],
}  # fmt: skip


def read(element: ElementTree.Element) -> Attributes:
    """A view's own attributes, without the namespace."""
    return {key.removeprefix(ANDROID): value for key, value in element.attrib.items()}


def values(folder: str, name: str) -> dict[str, str]:
    """A resource file's names and texts; nothing where the folder has no such file."""
    path = RES / folder / name
    if not path.exists():
        return {}
    return {item.get("name", ""): item.text or "" for item in ElementTree.parse(path).getroot()}


def styles() -> dict[str, Attributes]:
    """Each style with what it inherits by its name."""
    found: dict[str, Attributes] = {}
    for style in ElementTree.parse(RES / "values" / "styles.xml").getroot().iter("style"):
        name = style.get("name", "")
        own = {item.get("name", "").removeprefix("android:"): item.text or "" for item in style}
        found[name] = {**found.get(name.rpartition(".")[0], {}), "parent": style.get("parent", ""), **own}
    return found


@dataclass(frozen=True)
class Look:
    """One way to show the pages."""

    night: bool
    language: str
    mirrored: bool

    def strings(self) -> dict[str, str]:
        """The language's strings."""
        return values("values", "strings.xml") | values(f"values-{self.language}", "strings.xml")

    def colours(self) -> dict[str, str]:
        """The theme's colours."""
        return values("values", "colors.xml") | (values("values-night", "colors.xml") if self.night else {})


class Page:
    """Writes one page as HTML."""

    def __init__(self, name: str, look: Look):
        self.name, self.examples, self.mirrored = name, EXAMPLES[name], look.mirrored
        self.strings, self.colours, self.styles = look.strings(), look.colours(), styles()
        self.dimensions = values("values", "styles.xml")
        self.layout = "chat" if name == "work" else name

    def text(self, value: Example) -> str:
        """The words that a reference and its values stand for."""
        if isinstance(value, tuple):
            said = self.strings[str(value[0]).removeprefix("@string/")].replace("\\'", "'")
            for place, item in enumerate(value[1:], 1):
                known = self.text(item) if isinstance(item, str) else item
                for form in re.findall(rf"%{place}\$([.\d]*[sdf])", said):
                    said = said.replace(f"%{place}${form}", f"%{form}" % known)
            return said.replace("%%", "%")
        if value is None:
            return ""
        return self.text((value,)) if value.startswith("@string/") else value

    def length(self, value: str) -> str:
        """CSS for a size; sp and dp are pixels of a display of 160 to the inch."""
        if value.startswith("@dimen/"):
            value = self.dimensions[value.removeprefix("@dimen/")]
        return re.sub(r"(dp|sp)$", "px", value)

    def colour(self, value: str) -> str:
        """CSS for a colour or for a drawable of one."""
        name = value.rpartition("/")[2].replace("pressable_", "")
        return self.colours[{"press_text": "on_accent"}.get(name, name)]

    def css(self, own: Attributes, row: bool) -> str:
        """What a view's attributes say about its box and its text; `row`: its parent lies in reading direction."""
        css = ["box-sizing:border-box"]
        for side, names in {"width": "width", "height": "height"}.items():
            wanted = own.get(f"layout_{names}", "wrap_content")
            along = (side == "width") == row
            if wanted == "match_parent":
                css.append("flex:1 1 auto" if along else "align-self:stretch")
            elif wanted != "wrap_content" and "layout_weight" not in own:
                css.append(f"{side}:{self.length(wanted)}")
        if "layout_weight" in own:
            css.append(f"flex:{own['layout_weight']} 1 0;min-width:0;min-height:0")
        for key, name in {"padding": "padding", "layout_margin": "margin"}.items():
            for side, where in {
                "": "",
                "Start": "-inline-start",
                "End": "-inline-end",
                "Top": "-top",
                "Bottom": "-bottom",
            }.items():
                if key + side in own:
                    css.append(f"{name}{where}:{self.length(own[key + side])}")
        for key, name in {
            "minHeight": "min-height",
            "minWidth": "min-width",
            "textSize": "font-size",
        }.items():
            if key in own:
                css.append(f"{name}:{self.length(own[key])}")
        if "textColor" in own:
            css.append(f"color:{self.colour(own['textColor'])}")
        if own.get("textStyle") == "bold":
            css.append("font-weight:bold")
        if own.get("typeface") == "monospace":
            css.append("font-family:monospace")
        if own.get("background", "").startswith(("@drawable", "@color")):
            css.append(f"background:{self.colour(own['background'])}")
            if "@drawable" in own["background"]:
                css.append("border-radius:12px")
        if own.get("textAlignment") == "viewStart":  # where the page begins, whatever the text's direction
            css.append(f"text-align:{'right' if self.mirrored else 'left'}")
        if own.get("visibility") == "invisible":
            css.append("visibility:hidden")
        return ";".join(css)

    def picture(self, name: str) -> str:
        """A vector drawable as SVG."""
        vector = ElementTree.parse(RES / "drawable" / f"{name}.xml").getroot()
        about = read(vector)
        paths = "".join(f'<path d="{read(path)["pathData"]}"/>' for path in vector)
        mirror = ' class="mirror"' if about.get("autoMirrored") == "true" else ""
        return f'<svg{mirror} viewBox="0 0 24 24" width="24" height="24" fill="{self.colours["text"]}">{paths}</svg>'

    def view(self, element: ElementTree.Element, examples: dict[str, Example], row: bool = False) -> str:
        """A view and all that is in it."""
        if element.tag == "include":
            return self.file(element.get("layout", "").removeprefix("@layout/"), examples, row)
        own = read(element)
        own = {**self.styles.get(own.get("style", "").removeprefix("@style/"), {}), **own}
        name = own.get("id", "").partition("/")[2]
        gone = own.get("visibility") == "gone" and name not in examples
        if gone or (name in examples and examples[name] is None):
            return ""
        said = html.escape(self.text(examples.get(name) or own.get("text", "")))
        css = self.css(own, row)
        if element.tag in ("LinearLayout", "ScrollView"):
            across = own.get("orientation") == "horizontal"
            align = {"center_vertical": "center", "bottom": "flex-end"}.get(own.get("gravity", ""), "stretch")
            inside = "".join(self.view(child, examples, across) for child in element)
            inside += "".join(
                self.file(file, shown, across, shown.get(""))
                for file, shown in CHILDREN.get(f"{self.name}/{name}", [])
            )
            way = f"display:flex;flex-direction:{'row' if across else 'column'};align-items:{align};overflow:hidden"
            return f'<div style="{css};{way}">{inside}</div>'
        direction = {"ltr": "ltr"}.get(own.get("textDirection", ""), "auto")
        if element.tag == "TextView":
            return f'<div dir="{direction}" class="text" style="{css}">{said}</div>' if said else ""
        return self.widget(element.tag, own, css, said, direction)

    def widget(self, tag: str, own: Attributes, css: str, said: str, direction: str) -> str:
        """What a person touches, as browsers and people know it."""
        accent, quiet = self.colours["accent"], self.colours["quiet"]
        if tag == "Button":
            plain = "Borderless" in own["parent"] or own.get("style", "").endswith("Press.Plain")
            paint = f"color:{accent};background:none" if plain else f"background:{accent}"
            return f'<div class="button" style="{css};{paint}"><bdi>{said}</bdi></div>'
        if tag == "ImageButton":
            return f'<div class="button" style="{css};padding:12px">{self.picture(own["src"].partition("/")[2])}</div>'
        if tag == "EditText":
            hint = f'<span style="color:{quiet}">{html.escape(self.text(own["hint"]))}</span>'
            return f'<div dir="{direction}" class="text field" style="{css};border-color:{quiet}">{said or hint}</div>'
        if tag == "ProgressBar":
            return f'<div class="bar" style="{css};background:{quiet}55"><div style="background:{accent}"></div></div>'
        return f'<div class="switch" style="{css}"><span>{said}</span><span style="color:{accent}">▬●</span></div>'

    def file(self, name: str, examples: dict[str, Example], row: bool, background: Example = None) -> str:
        """A layout file; `background` as Java sets it."""
        root = ElementTree.parse(RES / "layout" / f"{name}.xml").getroot()
        if background:
            root.set(f"{ANDROID}background", str(background))
        return self.view(root, examples, row)


SHEET = """<!doctype html><meta charset="utf-8"><style>
body{margin:16px;font:16px Roboto,'Noto Sans',sans-serif;background:#888;display:grid;gap:16px;
  grid-template-columns:repeat(4,360px)}
figure{margin:0} figcaption{font-size:13px;color:#fff;padding-bottom:4px}
.phone{width:360px;height:720px;overflow:hidden;display:flex;flex-direction:column;line-height:1.35}
.phone>div{flex:1 1 auto;min-height:0}
.text{white-space:pre-wrap;overflow-wrap:anywhere;text-align:start}
.button{display:flex;align-items:center;justify-content:center;border-radius:4px;padding:0 12px;align-self:flex-start}
.field{border-bottom:1px solid;padding:12px 4px} .bar{height:4px!important} .bar div{width:42%;height:4px}
.switch{display:flex;justify-content:space-between;align-items:center}
[dir=rtl] .mirror{transform:scaleX(-1)}
</style>"""


def sheet() -> str:
    """All pages, each in one of the looks in turn and the first ones in all."""
    looks = [Look(False, "en", False), Look(True, "de", False), Look(True, "en", True)]
    shown = [(name, looks[0]) for name in EXAMPLES]
    shown += [(name, look) for look in looks[1:] for name in ("picker", "chat", "settings", "self_test")]
    pages = []
    for name, look in shown:
        about = f"{name}: {'dark' if look.night else 'light'}, {look.language}"
        about += ", right to left" if look.mirrored else ""
        page = Page(name, look)
        inside = page.file(page.layout, page.examples, False)
        way = "rtl" if look.mirrored else "ltr"
        pages.append(
            f'<figure><figcaption>{about}</figcaption><div class="phone" dir="{way}" lang="{look.language}" '
            f'style="background:{page.colours["page"]}">{inside}</div></figure>'
        )
    return SHEET + "".join(pages)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--png", action="store_true", help="also a picture, with Chromium")
    arguments = parser.parse_args()
    arguments.out.write_text(sheet(), "utf-8")
    if not arguments.png:
        return 0
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        print("previews.py: no Chromium on this machine; open the HTML in any browser", file=sys.stderr)
        return 1
    picture = arguments.out.with_suffix(".png").resolve()
    command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1520,3096"]
    return subprocess.run(
        [*command, f"--screenshot={picture}", arguments.out.resolve().as_uri()], check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
