"""A registry: the built-in entries of one kind by name, and those that other packages bring.

An entry is found in one of three ways, in this order:

1. by its name, where this package or an imported one has put it into the registry;
2. by the name of an entry point that an installed package declares under the registry's group;
3. by `module:NAME`, the dotted path of a module and the entry in it.
"""

import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeVar

from safereason.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Entry(Protocol):
    """An entry of a registry."""

    @property
    def name(self) -> str:
        """Name on the command line, in recipes and in records."""
        ...

    @property
    def summary(self) -> str:
        """Summary in one line, for a listing."""
        ...


E = TypeVar("E", bound=Entry)


def split_argument(text: str) -> tuple[str, str]:
    """Name and argument of `name:argument`; of `module:NAME:argument`, the first colon belongs to the name."""
    name, _, argument = text.partition(":")
    if "." in name:
        attribute, _, argument = argument.partition(":")
        name = f"{name}:{attribute}"
    return name, argument


@cache
def _declared(group: str, path: tuple[str, ...]) -> "tuple[EntryPoint, ...]":
    """The entry points of a group that packages on this `sys.path` declare."""
    from importlib.metadata import entry_points

    # Python reads the metadata of every installed package for this, which takes 15 ms; a report asks for many names.
    return tuple(entry_points(group=group))


class Registry(dict[str, E]):
    """Entries of one kind by name."""

    def __init__(self, noun: str, entry_type: type[E], entries: Iterable[E]) -> None:
        """Registers the built-in entries.

        Args:
            noun: The kind of entry, such as `attack`; its plural names the group of entry points, `safereason.attacks`.
            entry_type: The class of every entry.
            entries: The built-in ones, in the order of a listing.
        """
        super().__init__((entry.name, entry) for entry in entries)
        self.noun = noun
        self.group = f"safereason.{noun}s"
        self.entry_type = entry_type

    def find(self, name: str) -> E:
        """The entry of this name.

        Args:
            name: A registered name, the name of an entry point, or `module:NAME`.

        Raises:
            InputError: There is none, or what is there is no such entry.
        """
        if name in self:
            return self[name]
        plugin = self._plugin(name)
        if plugin is None:
            raise InputError(self._unknown(name))
        entry = self._loaded(plugin)
        # Records name an entry by its own name, so the next lookup has to find it by that name, too.
        if self.setdefault(entry.name, entry) is not entry:
            raise InputError(f"{name}: is called {entry.name!r}, which is taken; give it another name")
        return entry

    def has(self, name: str) -> bool:
        """Whether `find` has somewhere to look for this name; nothing is imported."""
        return name in self or self._plugin(name) is not None

    def own_name(self, text: str) -> str:
        """The text `name` or `name:argument` with the entry's own name, where a plugin's name leads to the entry.

        Records know an entry by that. Any other text is returned as it is.

        Raises:
            InputError: The plugin is no such entry, or cannot be imported.
        """
        name, argument = split_argument(text)
        if name in self or not self.has(name):
            return text
        own_name = self.find(name).name
        if not argument:
            return own_name
        return f"{own_name}:{argument}"

    def installed(self, name: str) -> E | None:
        """The entry of a name that a record holds; None where none is built in or installed under it.

        A record may be a stranger's, so that no dotted path in it is followed.
        """
        if ":" in name or not self.has(name):
            return self.get(name)
        try:
            return self.find(name)
        except InputError:
            return None

    def every(self) -> Iterator[tuple[str, "E | InputError"]]:
        """Name and entry of all that are built in or installed; a broken one has its error in place of the entry."""
        yield from list(self.items())
        for plugin in _declared(self.group, tuple(sys.path)):
            if plugin.name in self:
                continue
            try:
                yield plugin.name, self._loaded(plugin)
            except InputError as error:
                yield plugin.name, error

    def listed(self) -> Iterator[tuple[str, str]]:
        """Name and summary of every entry, those of installed packages included; a broken one says why."""
        for name, entry in self.every():
            if isinstance(entry, InputError):
                yield name, str(entry)
            else:
                yield name, entry.summary

    def _plugin(self, name: str) -> "EntryPoint | None":
        """Entry point that a name leads to outside this package; nothing is imported."""
        from importlib.metadata import EntryPoint

        # Names of models and files are looked up, too. Those with a slash are told apart without reading any metadata.
        if "/" in name:
            return None
        for plugin in _declared(self.group, tuple(sys.path)):
            if plugin.name == name:
                return plugin
        module, colon, attribute = name.partition(":")
        is_path = colon and "." in module and all(part.isidentifier() for part in (*module.split("."), attribute))
        return EntryPoint(name, name, self.group) if is_path else None

    def _loaded(self, plugin: "EntryPoint") -> E:
        module, _, attribute = plugin.value.partition(":")
        try:
            entry = getattr(import_module(module), attribute)
        except Exception as error:  # another author's module may raise anything
            raise InputError(
                f"{self.noun} {plugin.name}: {plugin.value} cannot be imported ({error}); "
                "install its package, or check the path"
            ) from error
        if not isinstance(entry, self.entry_type):
            raise InputError(
                f"{self.noun} {plugin.name}: {plugin.value} is of type {type(entry).__name__}; "
                f"it has to be of {self.entry_type.__module__}.{self.entry_type.__name__}"
            )
        return entry

    def _unknown(self, name: str) -> str:
        hint = did_you_mean(name, self, f"available: {', '.join(self)}")
        return f"no {self.noun} is called {name!r}; {hint}"
