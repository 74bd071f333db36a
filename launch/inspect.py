"""Shows what a bundle holds: its networks, its ladder, and what each rung costs and is worth.

  python -m launch.inspect --bundle=B
  python -m launch.inspect --bundle=https://host/bundle --verify

With --verify every file is read, checked against its hash and decoded, and every exact tensor is
checked against the hash of the original; the first difference ends in an error that names the file.

  python -m launch.inspect --bundle=B --public_key=public.pem
  python -m launch.inspect --bundle=NEW --against=OLD --verify

With --public_key a bundle that the key's owner has not signed is refused. A delta bundle holds what
changed since another one, which --against names.
"""

from absl import flags

from launch import bundle_flags, cli
from pwl_jax.bundle import BundleReader
from pwl_jax.errors import UserError
from pwl_jax.ladder import ladder_table

_BUNDLE = flags.DEFINE_string("bundle", None, "Folder or address of the bundle.", required=True)
_VERIFY = flags.DEFINE_bool("verify", False, "Read and check everything.")
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Where files fetched from an address are kept.")


def main() -> None:
    """Runs the command from its flags."""
    reader = bundle_flags.opened(_BUNDLE.value, _CACHE_DIR.value)
    print("\n".join(description(reader)))
    if bundle_flags.options()["public_key"]:
        print(f"\nsigned by the owner of {bundle_flags.options()['public_key']}")
    if _VERIFY.value:
        report = reader.verify()
        if not report.ok:
            raise UserError(f"{len(report.problems)} problems: {'; '.join(report.problems)}")
        print(f"\nverified {report.files} files, {report.bytes:,} bytes; ", end="")
        print(f"{report.tensors} tensors equal their originals to the bit")


def description(reader: BundleReader) -> list[str]:
    """The bundle in lines for people."""
    manifest = reader.manifest
    programs: dict[str, dict[str, int]] = {}
    for entry in (entry for entries in manifest.programs.values() for entry in entries):
        programs.setdefault(entry.format, {})[entry.file] = entry.bytes
    shard_bytes = {shard.file: shard.bytes for shard in manifest.shards.values()}
    lines = [
        f"pair        {manifest.pair.get('name', 'none')}",
        f"blocks      {manifest.blocks}",
        f"input       {'x'.join(map(str, manifest.preprocessing.get('input_shape', ())))}",
        f"classes     {len(manifest.classes)}",
        *([f"against     {manifest.against}"] if manifest.against else []),
        f"tensors     {len(manifest.tensors)} in {len(shard_bytes)} shards, "
        f"{sum(shard_bytes.values()):,} bytes",
    ]
    lines += [
        f"programs    {name}, {sum(files.values()):,} bytes" for name, files in programs.items()
    ]
    return [*lines, "", ladder_table(reader.ladder)]


if __name__ == "__main__":
    cli.run(main)
