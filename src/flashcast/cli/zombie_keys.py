"""`flashcast zombie keys`: the keys that documents are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flashcast.cli.common import JsonOption, failures, print_json, print_text
from flashcast.cli.fleet_options import answer, say
from flashcast.errors import CredentialError, InputError

if TYPE_CHECKING:
    from flashcast.zombie.keys import PublicKey

app = typer.Typer(name="keys", help="Keys that documents are signed with.", no_args_is_help=True)


@app.command()
def new(
    file: Annotated[Path, typer.Argument(help="File to write the private key to.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Make a key: the private half into a file that only you can read, the public half for apps on standard output."""
    with failures(as_json=as_json):
        from flashcast.zombie.keys import SigningKey

        made = SigningKey.generate()
        made.save(file)
        if as_json:
            print_json({"file": str(file), "id": made.id, "public": made.public.text})
        else:
            say(f"private key in {file}. Keep a copy where you would look for it at night, and nowhere else.")
            answer(made.public.text)


@app.command()
def show(
    files: Annotated[list[Path], typer.Argument(help="Files of private or public keys.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Tell the id and the public half of keys. The private half is never shown."""
    with failures(as_json=as_json):
        found = [(file, _public_of(file)) for file in files]
        if as_json:
            print_json({"keys": [{"file": str(file), "id": one.id, "public": one.text} for file, one in found]})
        else:
            print_text("".join(f"{one.id}  {one.text}  {file}\n" for file, one in found))


def _public_of(path: Path) -> PublicKey:
    """The public half of a PEM file of either half.

    Bare base64 is refused: 32 bytes are 32 bytes, and a private key must not be shown because it was taken for public.
    """
    from flashcast.zombie.keys import KEY_FILE_BYTES_MAX, PublicKey, SigningKey

    try:
        with path.open("rb") as file:
            data = file.read(KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise CredentialError(f"cannot read the key {path}: {error.strerror}") from None
    if b"PRIVATE KEY" in data:
        return SigningKey.load(path).public
    if b"-----BEGIN" not in data:
        raise InputError(f"{path} is no PEM file, so it cannot be told which half of a key it holds")
    return PublicKey.load(path)
