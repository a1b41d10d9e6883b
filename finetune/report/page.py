"""HTML as a tree of elements: text is escaped because it is text, and only this file can write markup.

`tag("td", label)` is all there is, and `picture` for what image models draw. A str is text; a Markup is an element made
here. No page has scripts, and none loads anything: attributes that could run or fetch something are refused.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from finetune.data.text_steps import visible
from finetune.report.strings import Words

VOID_ELEMENTS = {"meta", "br", "hr", "wbr", "img", "path", "line", "rect", "circle", "polyline", "polygon"}
FORBIDDEN_ELEMENTS = {"script", "iframe", "object", "embed", "link", "base", "form", "img", "image", "use"}
PNG_START = b"\x89PNG\r\n\x1a\n"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
LANGUAGE_TAGS = {"en": "en", "zh": "zh-Hans"}


@dataclass(frozen=True)
class Markup:
    """A piece of finished HTML."""

    html: str


Child: TypeAlias = "Markup | str | int | Sequence[Child] | None"


def tag(name: str, /, *children: Child, **attributes: str | float | None) -> Markup:
    """An element. `class_` is class, `aria_label` is aria-label; an attribute that is None is left out."""
    if name in FORBIDDEN_ELEMENTS:
        raise ValueError(f"<{name}> has no place in a page without scripts and network")
    opened = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in VOID_ELEMENTS:
        return Markup(f"<{name}{opened}>" if name in ("meta", "br", "hr", "wbr") else f"<{name}{opened}/>")
    return Markup(f"<{name}{opened}>{_inside(children)}</{name}>")


def picture(png: bytes, *, alt: str) -> Markup:
    """A PNG inside the page itself."""
    if not png.startswith(PNG_START):
        raise ValueError("only PNG images have a place in a page")
    data = base64.b64encode(png).decode("ascii")
    return Markup(f'<img alt="{escaped(alt)}" src="data:image/png;base64,{data}">')


def joined(*children: Child) -> Markup:
    """Several children as one piece."""
    return Markup(_inside(children))


def escaped(text: str) -> str:
    """Text for HTML: nothing in it is markup, and a character that does not show is written as its escape."""
    return "\n".join(html.escape(visible(line, len(line))) for line in text.split("\n"))


def document(title: str, *body: Child, words: Words) -> str:
    """A whole page."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        Markup(f"<style>{STYLE}</style>"),
    )
    root = tag("html", "\n", head, "\n", tag("body", tag("main", *body)), "\n", lang=LANGUAGE_TAGS[words.language])
    return f"<!DOCTYPE html>\n{root.html}\n"


def _inside(child: Child) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child.html
    if isinstance(child, str):
        return escaped(child)
    if isinstance(child, int):
        return f"{child:,}"
    return "".join(_inside(each) for each in child)


def _attribute(key: str, value: str | float | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if name.startswith("on") or name in ("src", "srcset", "action"):
        raise ValueError(f"the attribute {name} could run or fetch something")
    if name == "href" and (":" in str(value) or str(value).startswith("/")):
        raise ValueError(f"a page links to its own parts and to pages beside it, not to {value}")
    return f' {name}="{escaped(value if isinstance(value, str) else f"{value:g}")}"'


# Colours: blue, vermilion and green of Okabe and Ito's palette, told apart by every eye; lighter ones on dark ground.
STYLE = """
:root{--ink:#1c2126;--soft:#5b6670;--faint:#8b959e;--line:#dfe3e7;--ground:#fff;--panel:#f6f7f9;--blue:#0067a8;
--orange:#c4500a;--green:#00795a;--shade:0,103,168;--radius:6px}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e4e8eb;--soft:#a3adb6;--faint:#7c8790;--line:#333b42;
--ground:#14181b;--panel:#1c2226;--blue:#5cb3e8;--orange:#f0894a;--green:#3fc39c;--shade:92,179,232}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","Noto Sans","PingFang SC","Microsoft YaHei","Noto Sans CJK SC","Noto Sans SC",sans-serif;
overflow-wrap:break-word}
main{max-width:1040px;margin:0 auto;padding:28px 24px 72px}
h1{font-size:22px;line-height:1.3;margin:0;font-weight:650;letter-spacing:-.01em}
h2{font-size:20px;line-height:1.3;margin:0 0 14px;font-weight:650;letter-spacing:-.01em}
h3{font-size:16px;line-height:1.4;margin:26px 0 8px;font-weight:650}
p{margin:0 0 12px;max-width:72ch}
a{color:var(--blue);text-underline-offset:3px}
section{margin-top:52px;padding-top:26px;border-top:1px solid var(--line)}
.meta{color:var(--soft);font-size:14px;margin:2px 0 0}
.small,figcaption,.foot{color:var(--soft);font-size:13.5px;line-height:1.5}
.foot{margin:8px 0 0;max-width:90ch}.foot+.scroll{margin-top:18px}
code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono","Noto Sans Mono CJK SC",monospace;
font-size:.88em}
pre{background:var(--panel);border-radius:var(--radius);padding:12px 14px;margin:0 0 12px;white-space:pre-wrap;
line-height:1.5}
.verdict{margin:18px 0 22px;padding:2px 0 2px 18px;border-left:5px solid var(--faint)}
.verdict.good{border-color:var(--green)}.verdict.bad{border-color:var(--orange)}
.verdict p{font-size:18px;line-height:1.5;margin:0 0 8px;max-width:none}
.verdict p:last-child{margin:0}
.verdict p+p{font-size:16px}
.scroll{overflow-x:auto;margin:0 0 12px;overscroll-behavior-x:contain}
.scroll:focus-visible{outline:2px solid var(--blue);outline-offset:2px}
table{border-collapse:collapse;font-size:14.5px;line-height:1.4;font-variant-numeric:tabular-nums lining-nums}
table.wide{width:100%}
caption{text-align:left;color:var(--soft);font-size:13.5px;padding:0 0 6px}
caption span{display:inline-block;position:sticky;left:0;
min-width:min(26em,calc(100vw - 40px));max-width:min(90ch,calc(100vw - 32px))}
th,td{padding:6px 14px 6px 0;text-align:left;vertical-align:middle;border-bottom:1px solid var(--line)}
th:last-child,td:last-child{padding-right:0}
thead th,thead td{font-weight:600;color:var(--soft);font-size:13px;vertical-align:bottom;
white-space:normal;border-bottom-color:var(--faint)}
thead th.n{white-space:normal;min-width:3.4em}
tbody th{font-weight:500}
tbody tr.ours th,tbody tr.ours td{font-weight:650}
.n{text-align:right;white-space:nowrap}
.t{overflow-wrap:anywhere;min-width:5em;max-width:30em}
.ci{color:var(--soft);font-weight:400;font-size:.92em;white-space:nowrap}
.name{min-width:9em;max-width:22em;overflow-wrap:anywhere}
th code{color:var(--soft);font-weight:400;display:block;font-size:12px}
.headline td,.headline tbody th{padding-top:5px;padding-bottom:5px}
.headline tbody th{min-width:15em}.headline td .ci{display:block}
td.plot{padding-top:0;padding-bottom:0;vertical-align:middle}
td.plot svg{display:block}
.plot{width:190px;min-width:190px}
figure{margin:0}
figcaption{margin-top:2px}
svg{max-width:100%;overflow:visible}
svg text{font-family:inherit;font-weight:400;fill:var(--soft);font-size:11px;font-variant-numeric:tabular-nums}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(290px,1fr));gap:18px 36px;margin:18px 0 0}
.panels+.scroll{margin-top:22px}
.panels svg{width:100%;height:auto;display:block}
.panels figure{max-width:520px}.panels figure.square{max-width:370px}
img{max-width:100%;height:auto;image-rendering:pixelated;border-radius:3px;display:block}
.picture{margin:0 0 14px}.picture.chosen img{outline:3px solid var(--blue);outline-offset:2px}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--faint);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.blue{stroke:var(--blue)}.orange{stroke:var(--orange)}.grey{stroke:var(--faint)}
.dash{stroke-dasharray:4 3}.thin{stroke-width:1.4}
.dot{fill:var(--blue)}.dot.orange{fill:var(--orange);stroke:none}.dot.grey{fill:var(--faint);stroke:none}
.dot.faint{fill:var(--ground);stroke:var(--blue);stroke-width:1.2}.dot.faint.grey{stroke:var(--faint)}.none{stroke:none}
.dot.open{fill:var(--ground);stroke:var(--orange);stroke-width:2}
.bar{fill:var(--blue)}.mark{stroke:var(--ink);stroke-width:1;stroke-dasharray:2 3}
svg text.strong{fill:var(--ink);font-weight:600}svg text.tblue{fill:var(--blue);font-weight:600}
svg text.torange{fill:var(--orange);font-weight:600}
nav{margin:30px 0 0;font-size:14.5px;line-height:2}
nav a{margin-right:18px;white-space:nowrap}
.confusion th,.confusion td{padding:5px 7px;border:0}
.confusion td{text-align:right;min-width:2.9em;border:1px solid var(--ground)}
.confusion thead th{font-weight:500;color:var(--ink)}
.confusion thead th.up{writing-mode:vertical-rl;transform:rotate(180deg);max-height:11em;overflow:hidden;
text-overflow:ellipsis;white-space:nowrap;vertical-align:top;padding:7px 4px;text-align:left}
.confusion tbody th{text-align:right;max-width:15em;white-space:nowrap;overflow:hidden;text-overflow:ellipsis}
.confusion td.right{font-weight:650}
.s1{background:rgba(var(--shade),.07)}.s2{background:rgba(var(--shade),.15)}.s3{background:rgba(var(--shade),.25)}
.s4{background:rgba(var(--shade),.36)}.s5{background:rgba(var(--shade),.48)}
.s0{color:var(--faint)}
.case{border:1px solid var(--line);border-radius:var(--radius);padding:12px 16px;margin:0 0 12px}
.case .head{margin:0 0 6px;max-width:none}
.case .head b{font-weight:650}
.case blockquote{margin:8px 0 0;padding:0 0 0 12px;border-left:3px solid var(--line);white-space:pre-wrap}
.case .small{margin:6px 0 0}
.given,.epochs{display:grid;gap:12px 18px;margin:8px 0 0}
.given{grid-template-columns:repeat(auto-fit,minmax(min(100%,260px),1fr))}
.epochs{grid-template-columns:repeat(auto-fill,minmax(min(100%,210px),1fr));margin-top:14px}
.said{border-left:3px solid var(--line);padding:0 0 0 10px;min-width:0}.said.chosen{border-color:var(--blue)}
.case .said .small{margin:0}.case .said blockquote{border:0;padding:0;margin:2px 0 0;overflow-wrap:anywhere}
.said em{color:var(--faint)}
.wrong{color:var(--orange)}.right-label{color:var(--green)}
ul.notes{margin:0 0 12px;padding:0 0 0 1.2em}ul.notes li{margin:0 0 5px;max-width:90ch}
ul.notes .warn{color:var(--orange);font-weight:600}
.hint{margin:0 0 4px;max-width:90ch}
dl{display:grid;grid-template-columns:max-content 1fr;gap:5px 22px;margin:0 0 12px;font-size:14.5px}
dt{color:var(--soft)}dd{margin:0;min-width:0;font-variant-numeric:tabular-nums}
.sha{font-size:12px;color:var(--soft);min-width:17em}
@media (max-width:640px){
main{padding:18px 16px 48px}
.verdict p{font-size:16.5px}
section{margin-top:38px;padding-top:20px}
dl{grid-template-columns:1fr;gap:0}dd{margin:0 0 8px}
th,td{padding-right:9px}
.name{min-width:6.5em}.headline tbody th{min-width:6.5em}
th code{font-size:11px}
.plot{width:118px;min-width:118px}.plot svg{width:118px}.plot svg text{font-size:15px}.panels svg text{font-size:13px}
}
@media print{
@page{margin:16mm 14mm}
:root{--ink:#000;--soft:#444}
body{font-size:10.5pt}main{max-width:none;padding:0}
nav{display:none}
section{margin-top:22px;padding-top:14px}
.scroll{overflow:visible}
table{font-size:8.5pt}th,td{padding:3px 8px 3px 0}
.n{white-space:normal}thead th,caption,.foot,.small,figcaption{font-size:8.5pt}th code{font-size:7.5pt}
.headline tbody th,.name{min-width:7em}.headline td{padding-right:6px}code,td.n{overflow-wrap:anywhere}
.sha{min-width:9em}.confusion tbody th{max-width:9em;white-space:normal;overflow-wrap:anywhere}
.verdict p{font-size:12pt}.verdict p+p{font-size:10.5pt}
.plot{width:150px;min-width:150px}.plot svg{width:150px}
h1,h2,h3,caption{break-after:avoid}tr,figure,.case,pre.command{break-inside:avoid}
thead{display:table-header-group}
.verdict,.confusion td,.dot,.bar{print-color-adjust:exact;-webkit-print-color-adjust:exact}
a{color:inherit;text-decoration:none}
}
""".strip()
