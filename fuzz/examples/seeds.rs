//! Writes sound files for the fuzzer to begin with: one folder for each target, below the folder that is its argument.

use std::{fs, path::Path};

use ridethrough::{
    cache::fuzzing::sound_snapshot,
    journal::fuzzing::{sound_aside, sound_cursor, sound_segment},
};

fn main() -> std::io::Result<()> {
    let corpus = std::env::args().nth(1).expect("the argument is a folder");
    for shape in 0..20 {
        let (cursor, segment) = (sound_cursor(shape), sound_segment(shape));
        let folder = [cursor.as_slice(), &segment].concat();
        let files = [
            ("aside", sound_aside(shape)),
            ("cursor", cursor),
            ("segment", segment),
            ("folder", folder),
            ("snapshot", sound_snapshot(shape)),
        ];
        for (target, bytes) in files {
            let folder = Path::new(&corpus).join(target);
            fs::create_dir_all(&folder)?;
            fs::write(folder.join(format!("sound-{shape}")), bytes)?;
        }
    }
    Ok(())
}
