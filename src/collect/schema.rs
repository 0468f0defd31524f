//! The file: its tables, who may open it, and what is wrong where it cannot be opened.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::lock::Lock;

/// `rigd` in ASCII: tells our file from any other of SQLite's.
const APPLICATION: i32 = 0x7269_6764;
/// Version of the tables.
const VERSION: i32 = 1;
/// How long a statement waits for a reader that is in the way.
const BUSY: Duration = Duration::from_secs(5);

/// Names of the tables are a promise to whoever reads the file: only append.
const TABLES: &str = "
CREATE TABLE rig (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE lane (
  id INTEGER PRIMARY KEY, rig INTEGER NOT NULL REFERENCES rig(id), boot INTEGER NOT NULL, kind TEXT NOT NULL,
  complete INTEGER NOT NULL DEFAULT 0, expired_to INTEGER NOT NULL DEFAULT 0, heard_ms INTEGER NOT NULL,
  UNIQUE (rig, boot, kind));
CREATE TABLE message (
  id INTEGER PRIMARY KEY, lane INTEGER NOT NULL REFERENCES lane(id), seq INTEGER NOT NULL,
  received_ms INTEGER NOT NULL, payload BLOB NOT NULL, UNIQUE (lane, seq));
CREATE TABLE range (
  lane INTEGER NOT NULL REFERENCES lane(id), first INTEGER NOT NULL, why TEXT NOT NULL, last INTEGER NOT NULL,
  PRIMARY KEY (lane, first, why)) WITHOUT ROWID;
CREATE TABLE state (
  id INTEGER PRIMARY KEY, rig INTEGER NOT NULL REFERENCES rig(id), kind TEXT NOT NULL, received_ms INTEGER NOT NULL,
  payload BLOB NOT NULL);
CREATE INDEX state_newest ON state (rig, kind, id);
CREATE TABLE rejected (
  id INTEGER PRIMARY KEY, received_ms INTEGER NOT NULL, topic TEXT NOT NULL, reason TEXT NOT NULL, payload BLOB NOT NULL);
CREATE VIEW messages AS
  SELECT message.id AS id, rig.name AS rig, lane.boot AS boot, lane.kind AS kind, seq, received_ms, payload
  FROM message JOIN lane ON lane.id = message.lane JOIN rig ON rig.id = lane.rig;
CREATE VIEW newest AS
  SELECT rig.name AS rig, state.kind AS kind, received_ms, payload FROM state JOIN rig ON rig.id = state.rig
  WHERE state.id = (SELECT max(id) FROM state AS other WHERE other.rig = state.rig AND other.kind = state.kind);
";

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another collector has it.
    #[error("another collector has {} open: two on one store would each acknowledge what the other misses", .0.display())]
    Taken(PathBuf),
    /// The file beside it that is locked.
    #[error("could not lock {}: {why}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
    /// No way to the broker.
    #[error("{0}")]
    Broker(String),
    /// There is no thread for it.
    #[error("could not start the store's thread: {0}")]
    Thread(std::io::Error),
    /// A part of the collector is gone; it never ends by itself.
    #[error("the collector's {0} has ended")]
    Ended(&'static str),
    /// Somebody else's file.
    #[error("{} is no store of a collector", .0.display())]
    NotOurs(PathBuf),
    /// Of a later version.
    #[error("{} was written by a later version: its tables are version {version}, this one knows {VERSION}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version of its tables.
        version: i32,
    },
    /// What SQLite says.
    #[error("{}: {why}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What it said.
        why: rusqlite::Error,
    },
}

impl Error {
    /// It may go away by itself or by somebody's hand (a full disk, a reader in the way): worth trying again. A damaged file
    /// is not.
    #[must_use]
    pub fn passes(&self) -> bool {
        let Self::Sqlite { why, .. } = self else { return false };
        let passing = [
            ErrorCode::DiskFull,
            ErrorCode::DatabaseBusy,
            ErrorCode::DatabaseLocked,
            ErrorCode::SystemIoFailure,
            ErrorCode::CannotOpen,
            ErrorCode::OutOfMemory,
        ];
        why.sqlite_error_code().is_some_and(|code| passing.contains(&code))
    }
}

/// What SQLite says about this file.
pub(super) fn about(path: &Path) -> impl Fn(rusqlite::Error) -> Error {
    let path = path.to_owned();
    move |why| match why.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::NotOurs(path.clone()),
        _ => Error::Sqlite { path: path.clone(), why },
    }
}

/// The file that a path means: the path, or `collect.db` in it where it is a directory.
#[must_use]
pub fn file(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("collect.db") } else { path.to_owned() }
}

/// Opens the store for the one who writes it, and makes it where there is none. The lock that comes with it is on a file
/// beside the store, because closing any descriptor of the store itself would drop the locks that SQLite has on it
/// (fcntl(2), "Advisory record locking").
pub(super) fn open(path: &Path) -> Result<(Connection, Lock), Error> {
    let beside = PathBuf::from(format!("{}.lock", path.display()));
    let failed = |why| Error::Lock { path: beside.clone(), why };
    let lock = Lock::take(&beside).map_err(failed)?.ok_or_else(|| Error::Taken(path.to_owned()))?;
    let sqlite = about(path);
    let mut connection = Connection::open(path).map_err(&sqlite)?;
    connection.busy_timeout(BUSY).map_err(&sqlite)?;
    let objects: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(&sqlite)?;
    if objects == 0 {
        // Before the first table: `complete` reads while we write.
        connection.pragma_update(None, "journal_mode", "WAL").map_err(&sqlite)?;
        let transaction = connection.transaction().map_err(&sqlite)?;
        transaction.execute_batch(TABLES).map_err(&sqlite)?;
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(&sqlite)?;
        transaction.pragma_update(None, "user_version", VERSION).map_err(&sqlite)?;
        transaction.commit().map_err(&sqlite)?;
    }
    known(&connection, path)?;
    // In WAL mode NORMAL loses the last transactions in a power cut (sqlite.org/pragma.html#pragma_synchronous), and those
    // have been acknowledged: FULL syncs the log before each commit returns.
    connection.pragma_update(None, "synchronous", "FULL").map_err(&sqlite)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20).map_err(&sqlite)?;
    Ok((connection, lock))
}

/// Opens the store for one who reads, beside the one who writes.
pub(super) fn read(path: &Path) -> Result<Connection, Error> {
    let sqlite = about(path);
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(&sqlite)?;
    connection.busy_timeout(BUSY).map_err(&sqlite)?;
    known(&connection, path)?;
    Ok(connection)
}

fn known(connection: &Connection, path: &Path) -> Result<(), Error> {
    let number = |pragma: &str| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    if number("application_id").map_err(about(path))? != APPLICATION {
        return Err(Error::NotOurs(path.to_owned()));
    }
    match number("user_version").map_err(about(path))? {
        VERSION => Ok(()),
        version => Err(Error::Newer { path: path.to_owned(), version }),
    }
}
