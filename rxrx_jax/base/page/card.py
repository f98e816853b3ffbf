"""Cards of weights and of datasets, README.md files as the Hugging Face hub reads them: front matter, and what others
wrote as plain Markdown."""

import json
import re
from collections.abc import Mapping
from typing import Any

# A licence that is one of these has an identifier on the hub; any other is "other", with its own name.
HUB_LICENSES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "odc-by", "odbl", "pddl",
}  # fmt: skip
# As builders write one: NAME (URL), (c) OWNER; all but the name may be missing.
LICENSE = re.compile(r"(?P<name>.*?)(?:\s*\((?P<url>https?://[^\s()]+)\))?(?:,? \(c\) .*)?", re.DOTALL)
UNSTATED = "not stated"  # what the licence of data starts with whose owner has given none


def front_matter(fields: Mapping[str, Any]) -> list[str]:
    """YAML between lines of ---; values are written as JSON, which YAML contains if all characters print."""
    return ["---", *(f"{key}: {_yaml(value)}" for key, value in fields.items()), "---", ""]


def _yaml(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def license_url(text: str) -> str:
    """The address in a licence as builders write one; '' if it has none."""
    return LICENSE.fullmatch(text)["url"] or ""


def license_fields(text: str, file: str = "") -> dict[str, str]:
    """license, and what the hub asks for beside one that it does not know: license_name, and license_link, which is its
    address or the file beside the card that holds it, where there is one."""
    if text.startswith(UNSTATED):
        return {"license": "unknown"}
    name = re.sub(r"[^a-z0-9.]+", "-", LICENSE.fullmatch(text)["name"].lower()).strip("-.")
    if name in HUB_LICENSES:
        return {"license": name}
    link = license_url(text) or file
    return {"license": "other", "license_name": name or "see-below", **({"license_link": link} if link else {})}


def escaped(text: str) -> str:
    """Text of others on one line of Markdown, none of which is markup."""
    return re.sub(r"([\\`*_\[\]<>&|~$#])", r"\\\1", " ".join(text.split()))


def block(text: str) -> list[str]:
    """Text of others as it is, in a fence that it cannot close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return [f"{fence}text", *text.splitlines(), fence]
