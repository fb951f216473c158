"""SQLite: schema, migrations, one small repository per table."""

from .artifacts import ImageTable as ImageTable
from .artifacts import KernelTable as KernelTable
from .database import Database as Database
from .journal import Journal as Journal
from .journal import JournalEntry as JournalEntry
from .vms import VMTable as VMTable
