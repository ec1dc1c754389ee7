"""Statements that go to the database together with those of other handlers: one text, and many parameters for it.

The law: what goes this way past SQLAlchemy is what SQLAlchemy itself would have sent, and what comes back is what it
would have given. A statement for which that takes more than putting values in order is not for here, and goes through
the session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from sqlalchemy import BindParameter, Delete, Executable, Insert, Integer, Select, Update, bindparam
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from tcc.errors import UsageError

First: TypeAlias = tuple[Any, ...] | None
"""The first row of a statement's result; None where it has none."""

_PLACE: Final = "tcc_place"


class Shareable:
    """A statement as its text, with one column more: a number of whoever asks, which comes back in each row.

    Args:
        compiled: with that column.
        asked: the names for which a value comes with each execution.
        writes: see there.

    Attributes:
        text: for the driver.
        writes: whether it is one that changes something where it returns a row.
    """

    __slots__ = ("_given", "_order", "asked", "text", "writes")

    def __init__(self, compiled: SQLCompiler, asked: frozenset[str], writes: bool) -> None:
        self.text = str(compiled)
        self.asked = asked
        self.writes = writes
        self._order: list[str] = list(compiled.positiontup or ())
        self._given = {
            name: bound.effective_value for bound, name in compiled.bind_names.items() if name not in {*asked, _PLACE}
        }

    def values(self, parameters: Mapping[str, object], place: int) -> tuple[object, ...]:
        """What stands for each placeholder of the text.

        Args:
            parameters: of the names in `asked`.
            place: the number.
        """
        given = {**self._given, **parameters, _PLACE: place}
        return tuple([given[name] for name in self._order])


class Shareables:
    """The statements of a service, each compiled once.

    Args:
        engine: of its database.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._dialect = engine.dialect
        self._as_written = not engine.sync_engine.get_execution_options().get("schema_translate_map")
        self._known: WeakKeyDictionary[Executable, Shareable | None] = WeakKeyDictionary()

    def of(self, statement: Executable, parameters: Mapping[str, object]) -> Shareable | None:
        """A statement's; None for one that only the session can run.

        Args:
            statement: best one that is kept, since it is compiled once.
            parameters: with which it is to run now. The names of the first time are those that count.

        Raises:
            UsageError: it changes something and returns nothing, so that nobody could tell whether it did.
        """
        try:
            known = self._known[statement]
        except KeyError:
            known = self._known[statement] = self._made(statement, frozenset(parameters))
        return known if known is not None and parameters.keys() == known.asked else None

    def _made(self, statement: Executable, asked: frozenset[str]) -> Shareable | None:
        place = bindparam(_PLACE, type_=Integer())
        placed: Select[Any] | Insert | Update | Delete
        match statement:
            case Select():
                described, results = statement.column_descriptions, list(statement.selected_columns)
                placed = statement.add_columns(place)
            case Insert() | Update() | Delete():
                described, results = [statement.entity_description], list(statement.exported_columns)
                if not results:
                    raise UsageError(f"a statement that changes something has to return what it changed: {statement}")
                placed = statement.returning(place)
            case _:
                return None
        if any("entity" in each for each in described):  # the ORM's: objects come of it
            return None
        try:
            compiled: Any = placed.compile(dialect=self._dialect, column_keys=sorted(asked))
        except SQLAlchemyError:  # the session says it better
            return None
        missing = any(bound.required and name not in {*asked, _PLACE} for bound, name in compiled.bind_names.items())
        plain = (
            self._as_written
            and not missing
            and not (compiled.ctes or compiled.insert_prefetch or compiled.update_prefetch)
            and not (compiled.post_compile_params or compiled.literal_execute_params)
            and all(self._goes_as_it_is(bound) for bound in compiled.bind_names)
            and all(self._comes_as_it_is(column.type) for column in results)
        )
        return Shareable(compiled, asked, not isinstance(statement, Select)) if plain else None

    def _goes_as_it_is(self, bound: BindParameter[Any]) -> bool:
        return bound.callable is None and bound.type.dialect_impl(self._dialect).bind_processor(self._dialect) is None

    def _comes_as_it_is(self, kind: TypeEngine[Any]) -> bool:
        try:
            return kind.dialect_impl(self._dialect).result_processor(self._dialect, None) is None
        except Exception:  # it has to know what the driver says of the column
            return False
