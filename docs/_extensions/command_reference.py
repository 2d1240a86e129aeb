"""The reference of the command line: each option as `--help` lists it, as Markdown."""

import importlib
import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from docstrings import inline, markdown

from deberta_jax.cli.main import COMMANDS
from deberta_jax.cli.parse import Option, OptionGroup, option_groups, option_help

_PROGRAM = "deberta-jax"
# The recipe whose defaults the page lists, by command.
TYPICAL = {"pretrain": "v3-base", "plan": "v3-base", "finetune": "generic", "evaluate": "generic"}
# Options whose default names the recipe.
_NAMED_BY_RECIPE = {"--model", "--folder"}
_SUFFIX = re.compile(r"\s*\((default: (?P<default>.*)|required|repeatable)\)\s*$", re.DOTALL)


def render() -> str:
    """A section for each command, with all options."""
    return "\n\n".join(section(name) for name in COMMANDS)


def section(name: str) -> str:
    """The section of one command."""
    module = importlib.import_module(COMMANDS[name].options)
    program = f"{_PROGRAM} {name}"
    if not hasattr(module, "RECIPES"):
        return "\n\n".join([f"## {program}", *_body(program, module.OPTIONS)])
    noun, typical = getattr(module, "NOUN", "RECIPE"), TYPICAL[name]
    default = module.recipe(typical, _selection(module))
    shared = option_help(type(default.pretrain), default.pretrain) if name == "plan" else {}
    parts = [f"## {program}", *_body(f"{program} {noun}", type(default), default, shared)]
    note = f"The defaults are those of `{program} {typical}`; `{program} {noun} --help` prints the defaults of another."
    parts.insert(3, note)
    if shared:
        parts.append(f"All options of [{_PROGRAM} pretrain](#{_PROGRAM}-pretrain) are accepted, with the same recipes.")
        return "\n\n".join(parts)
    others = {other: module.recipe(other, _selection(module)) for other in module.RECIPES}
    of_kind = {other: config for other, config in others.items() if type(config) is type(default)}
    heading = f"### {program}: {noun.lower()}s"
    parts += [heading, _recipes(module.RECIPES, of_kind, typical)]
    for other in others.keys() - of_kind.keys():
        # A recipe with other options, such as `evaluate perplexity`.
        parts += [f"## {program} {other}", *_body(f"{program} {other}", type(others[other]), others[other])]
    return "\n\n".join(parts)


def _selection(module: Any) -> Any:
    return module.Selection() if hasattr(module, "Selection") else None


def _body(program: str, kind: Any, default: Any = None, excluded: Collection[str] = ()) -> Iterator[str]:
    """The description, the usage and the options of a command."""
    groups = option_groups(kind, default)
    positional = [option.values for group in groups for option in group.options if not option.names]
    command = " ".join(program.split()[:2])
    yield markdown(inspect.getdoc(kind) or "")
    yield f"```text\n{' '.join([program, *positional, '[OPTIONS]'])}\n```"
    yield f"```{{program}} {' '.join(word for word in program.split() if not word.isupper())}\n```"
    for group in groups:
        options = [option for option in group.options if not set(option.names) & set(excluded)]
        if options:
            yield from _group(command, group, options)


def _group(command: str, group: OptionGroup, options: list[Option]) -> Iterator[str]:
    title = group.title.removesuffix(" options")
    if title not in ("options", "positional arguments"):
        yield f"### {command}: {title}"
        yield markdown(group.description)
    yield from map(_entry, options)


def _entry(option: Option) -> str:
    """The entry of an option: names, values, help text, and default."""
    suffix = _SUFFIX.search(option.help)
    text = inline(" ".join(_SUFFIX.sub("", option.help, count=1).split()))
    signature = ", ".join(f"{name} {option.values}".strip() for name in option.names) or option.values
    if suffix and suffix["default"] is not None:
        default = " ".join(suffix["default"].split())
        text += f" Default:\u00a0`{default}`." if default else " Default:\u00a0none."
    elif suffix:
        text += f" {suffix[1].capitalize()}."
    return "\n".join([f":::{{option}} {signature}", text.strip(), ":::"])


def _recipes(descriptions: Mapping[str, str], configs: Mapping[str, Any], typical: str) -> str:
    """The recipes, and the defaults of each that differ from those of the typical one."""
    usual = set(_defaults(configs[typical]))
    rows = []
    for name, config in configs.items():
        changes = [words for words in _defaults(config) if words not in usual]
        rows.append(f"| `{name}` | {inline(descriptions[name])} | {' '.join(f'`{words}`' for words in changes)} |")
    return "\n".join([f"| name | description | defaults that differ from `{typical}` |", "|---|---|---|", *rows])


def _defaults(config: Any) -> Iterator[str]:
    """The default of each option of a recipe, as words of the command line."""
    for group in option_groups(type(config), config):
        for option in group.options:
            suffix = _SUFFIX.search(option.help)
            value = " ".join(((suffix and suffix["default"]) or "").split())
            is_flag = len(option.names) == 2 and not option.values
            if is_flag:
                yield option.names[value == "False"]
            elif option.names and option.names[0] not in _NAMED_BY_RECIPE:
                yield f"{option.names[0]} {value}".strip()
