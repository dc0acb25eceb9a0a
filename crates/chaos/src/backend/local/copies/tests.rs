use super::*;

struct Place {
    up: tempfile::TempDir,
    dirs: DataDirs,
}

impl Place {
    fn new() -> Self {
        let up = tempfile::tempdir().unwrap();
        let dirs = DataDirs::of(up.path(), "node1");
        fs::create_dir(&dirs.place).unwrap();
        fs::write(dirs.place.join("log"), "older").unwrap();
        Self { up, dirs }
    }

    fn copied() -> Self {
        let place = Self::new();
        place.dirs.begin().unwrap();
        place.dirs.make().unwrap();
        fs::write(place.dirs.place.join("log"), "newer").unwrap();
        place
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dirs.place.join("log")).unwrap()
    }

    fn others(&self) -> usize {
        fs::read_dir(self.up.path()).unwrap().count() - 1
    }
}

#[test]
fn a_directory_that_a_server_has_open_is_not_exchanged() {
    let place = Place::copied();
    for dir in [&place.dirs.place, &place.dirs.copy] {
        let server = lock(dir).unwrap().unwrap();
        assert!(!place.dirs.try_exchange().unwrap());
        assert_eq!((place.log(), place.dirs.is_restored()), ("newer".to_owned(), false));
        drop(server);
    }
    assert!(place.dirs.try_exchange().unwrap());
    assert_eq!((place.log(), place.dirs.is_restored()), ("older".to_owned(), true));
    assert!(place.dirs.try_exchange().unwrap());
    assert_eq!((place.log(), place.dirs.is_restored()), ("newer".to_owned(), false));
}

#[test]
fn a_data_dir_is_never_removed() {
    let place = Place::copied();
    assert!(place.dirs.try_exchange().unwrap());
    for refused in [place.dirs.remove(), place.dirs.begin()] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("put the data dir back first"), "{refused}");
    }
    assert!(place.dirs.try_exchange().unwrap());
    assert_eq!(place.log(), "newer");
    place.dirs.remove().unwrap();
    assert_eq!((place.log(), place.others()), ("newer".to_owned(), 0));

    // A directory without the mark is somebody else's.
    fs::create_dir(&place.dirs.copy).unwrap();
    assert!(!place.dirs.has_copy());
    assert!(place.dirs.remove().unwrap_err().to_string().contains("is no copy"));
    assert_eq!(place.others(), 1);
}

#[test]
fn a_copy_that_was_not_finished_is_no_copy_and_is_removed() {
    let place = Place::new();
    place.dirs.begin().unwrap();
    assert!(place.dirs.is_unfinished() && !place.dirs.has_copy());
    place.dirs.remove().unwrap();
    assert!(!place.dirs.is_unfinished());
    // A new copy replaces the last one, also one that is not finished.
    for log in ["one", "two"] {
        place.dirs.begin().unwrap();
        fs::write(place.dirs.place.join("log"), log).unwrap();
        place.dirs.begin().unwrap();
        place.dirs.make().unwrap();
        assert_eq!(fs::read_to_string(place.dirs.copy.join("log")).unwrap(), log);
    }
    assert_eq!(place.others(), 1);
}

#[test]
fn a_data_dir_with_too_many_bytes_or_with_folders_is_not_copied() {
    let place = Place::new();
    let large = File::create(place.dirs.place.join("state")).unwrap();
    large.set_len(COPY_BYTES_MAX).unwrap();
    place.dirs.begin().unwrap();
    assert!(place.dirs.make().unwrap_err().to_string().contains("a copy may have at most"));
    fs::remove_file(place.dirs.place.join("state")).unwrap();
    fs::create_dir(place.dirs.place.join("folder")).unwrap();
    place.dirs.begin().unwrap();
    assert!(place.dirs.make().unwrap_err().to_string().contains("folder is no file"));
}
