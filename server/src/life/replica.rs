//! Who this replica is: an id that stays with its data folder, as the journal does. It is written with each todo, so that
//! replay tells its own earlier writes from those of others.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use uuid::Uuid;

const FILE: &str = "replica-id";

/// The id in the data folder; makes folder and id where they are missing, which also shows that both can be written.
pub(super) fn identify(folder: &Path) -> io::Result<Uuid> {
    fs::create_dir_all(folder)?;
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let id = text.trim().parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} in it does not hold a UUID"))
            })?;
            // The id alone does not show that the folder can still be written.
            let trial = folder.join(format!("{FILE}.trial-{}", std::process::id()));
            File::create(&trial)?;
            fs::remove_file(&trial)?;
            Ok(id)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id = Uuid::new_v4();
            store(folder, &path, id)?;
            Ok(id)
        }
        Err(error) => Err(error),
    }
}

/// Whole or not at all: a crash in between must not leave an empty file that stops the next start.
fn store(folder: &Path, path: &Path, id: Uuid) -> io::Result<()> {
    let new = folder.join(format!("{FILE}.new-{}", std::process::id()));
    let mut file = File::create(&new)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_with_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("a/b");
        let first = identify(&data).unwrap();
        assert_eq!(identify(&data).unwrap(), first);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_spoilt_id_is_refused_and_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FILE), "who?").unwrap();
        assert!(identify(folder.path()).unwrap_err().to_string().contains(FILE));
        assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), "who?");
    }

    #[test]
    fn a_file_in_place_of_the_folder_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(identify(file.path()).is_err());
    }
}
