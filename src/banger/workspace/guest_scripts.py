"""What is run inside the guest, by its own shell and git, to say what was changed there.

Nothing of the guest's is touched: a private git directory below its ``.git`` borrows its objects, and is removed at the end. Statuses: 90 no git, 91 no
repository, 92 never prepared, 93 no such commit; what git answers otherwise.
"""

from __future__ import annotations

from typing import Final

NO_GIT: Final = 90
NO_REPOSITORY: Final = 91
NEVER_PREPARED: Final = 92
NO_COMMIT: Final = 93

_BEGIN: Final = r"""
set -e
export LC_ALL=C GIT_OPTIONAL_LOCKS=0 GIT_TERMINAL_PROMPT=0 GIT_NO_REPLACE_OBJECTS=1
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY
command -v git >/dev/null 2>&1 || exit 90
cd -- "$1" 2>/dev/null || exit 91
[ -d .git ] || exit 91
real=$(git -c core.fsmonitor=false rev-parse --absolute-git-dir 2>/dev/null) || exit 91
find_commit() { git rev-parse -q --verify "$1^{commit}"; }
private=$(mktemp -d "$real/banger-XXXXXX")
trap 'rm -rf "$private"' EXIT
trap 'exit 129' HUP INT TERM PIPE
mkdir "$private/objects" "$private/refs" "$private/info" "$private/objects/info"
printf '%s\n' "$real/objects" >"$private/objects/info/alternates"
cat "$real/shallow" >"$private/shallow" 2>/dev/null || rm -f "$private/shallow"
cat "$real/info/exclude" >"$private/info/exclude" 2>/dev/null || :
quiet="-c core.fsmonitor=false -c core.hooksPath=/dev/null -c core.safecrlf=false -c gc.auto=0"
quiet="$quiet -c core.checkStat=minimal -c core.trustctime=false -c advice.addEmbeddedRepo=false"
"""

_BYTES: Final = r"""
# The bytes are the content: no conversion that attributes, filters or configuration ask for.
cp "$real/banger/index" "$private/index"
printf '%s\n' '* -text -filter -ident -working-tree-encoding !eol' >"$private/info/attributes"
printf 'ref: refs/heads/none\n' >"$private/HEAD"
format=$(git rev-parse --show-object-format 2>/dev/null || echo sha1)
if [ "$format" = sha1 ]; then
    printf '[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tautocrlf = false\n' >"$private/config"
else
    printf '[core]\n\trepositoryformatversion = 1\n\tbare = false\n\tautocrlf = false\n[extensions]\n\tobjectformat = %s\n' "$format" >"$private/config"
fi
export GIT_DIR="$private" GIT_WORK_TREE="$PWD" GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
"""

_AS_COMMITTED: Final = r"""
[ -f "$real/index" ] && cp "$real/index" "$private/index"
export GIT_INDEX_FILE="$private/index" GIT_OBJECT_DIRECTORY="$private/objects"
"""

_TREE: Final = r"""
git $quiet add -A >&2
tree=$(git $quiet write-tree)
"""

_DIFF: Final = r"""
printf '%s\n' "$base"
git $quiet diff-tree -r -p --binary --full-index --no-renames --no-ext-diff --no-textconv --no-color "$base" "$tree"
"""

CHANGES: Final = _BEGIN + 'base=$(find_commit refs/banger/prepared) || exit 92\n[ -f "$real/banger/index" ] || exit 92\n' + _BYTES + _TREE + _DIFF
"""``sh -c CHANGES name PATH``: a line with the commit that was prepared, and the patch from there to what the files are now, byte for byte."""

CHANGES_SINCE: Final = _BEGIN + 'base=$(find_commit "$2") || exit 93\n' + _AS_COMMITTED + _TREE + _DIFF
"""``sh -c CHANGES_SINCE name PATH COMMIT``: the same from a commit, with the conversions that git would make."""

COMMITS: Final = (
    _BEGIN
    + r"""
head=$(find_commit HEAD) || exit 93
base=$(find_commit refs/banger/base) || exit 92
branch=$(git symbolic-ref -q HEAD || :)
"""
    + _AS_COMMITTED
    + _TREE
    + r"""
dirty=
if [ "$tree" != "$(git rev-parse "$head^{tree}")" ]; then
    # The same files on the same commit are the same commit, however often they are fetched.
    when="@$(git $quiet log -1 --no-show-signature --format=%ct "$head") +0000"
    dirty=$(GIT_AUTHOR_DATE=$when GIT_COMMITTER_DATE=$when \
        GIT_AUTHOR_NAME=banger GIT_AUTHOR_EMAIL=banger@localhost GIT_COMMITTER_NAME=banger GIT_COMMITTER_EMAIL=banger@localhost \
        git $quiet commit-tree --no-gpg-sign -p "$head" -m "banger: what was not committed" "$tree")
fi
{
    git for-each-ref --format='%(objectname) %(refname)' refs/heads
    [ -n "$branch" ] || printf '%s HEAD\n' "$head"
    [ -z "$dirty" ] || printf '%s worktree\n' "$dirty"
} >"$private/tips"
cat "$private/tips"
printf '\n'
{ cut -d ' ' -f 1 "$private/tips"; printf '^%s\n' "$base"; } | git $quiet pack-objects -q --revs --stdout
"""
)
"""``sh -c COMMITS name PATH``: lines ``HASH REF`` (branches, ``HEAD`` when detached, ``worktree`` for what is not committed), an empty line, and a pack of
what they have beyond the commit that was prepared."""
