//! The injector's settings in a file, which the chart mounts from a ConfigMap.
//!
//! The file is looked at every [`LOOK`]: a mounted ConfigMap changes by a link to another folder,
//! which watches of files miss. One that cannot be used leaves the last good settings in force,
//! and the log says why, once for each content.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use super::Settings;

/// How often the file is looked at: the kubelet itself writes a change within a minute.
const LOOK: Duration = Duration::from_secs(5);
/// Largest file that is read.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("cannot read the injector's settings {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It does not hold settings.
    #[error("the injector's settings {path} cannot be used")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where, and what is wrong.
        #[source]
        source: serde_json::Error,
    },
}

/// Settings that follow their file.
#[derive(Debug)]
pub struct SettingsFile {
    path: PathBuf,
    settings: watch::Sender<Arc<Settings>>,
    /// As read last, good or not.
    text: String,
    /// Whether the last look failed.
    is_unreadable: bool,
}

impl SettingsFile {
    /// Reads the file (JSON, as [`Settings`]) for the first time. Blocks for a moment.
    ///
    /// # Errors
    /// When it cannot be read or used: there are no settings before it to keep.
    pub fn open(path: &Path) -> Result<Self, SettingsError> {
        let text = read(path)?;
        let settings = watch::channel(Arc::new(parse(path, &text)?)).0;
        Ok(Self {
            path: path.to_owned(),
            settings,
            text,
            is_unreadable: false,
        })
    }

    /// What is in force.
    #[must_use]
    pub fn settings(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Follows the file for ever. Cancel safe: yes.
    pub async fn follow(mut self) {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if let Err(error) = self.look() {
                let cause = &error as &dyn std::error::Error;
                tracing::error!(
                    error = cause,
                    "the injector's settings stay as they were before"
                );
            }
        }
    }

    /// Takes what the file says now. An error is returned once for each content.
    fn look(&mut self) -> Result<(), SettingsError> {
        let text = match read(&self.path) {
            Ok(text) => text,
            Err(_) if self.is_unreadable => return Ok(()),
            Err(error) => {
                self.is_unreadable = true;
                return Err(error);
            }
        };
        self.is_unreadable = false;
        if text == self.text {
            return Ok(());
        }
        let parsed = parse(&self.path, &text);
        self.text = text;
        let parsed = Arc::new(parsed?);
        if self
            .settings
            .send_if_modified(|settings| std::mem::replace(settings, parsed.clone()) != parsed)
        {
            tracing::info!(path = %self.path.display(), "the injector's settings changed");
        }
        Ok(())
    }
}

fn read(path: &Path) -> Result<String, SettingsError> {
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    read.map(|_| text).map_err(|source| SettingsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(path: &Path, text: &str) -> Result<Settings, SettingsError> {
    serde_json::from_str(text).map_err(|source| SettingsError::Parse {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(image: &str) -> String {
        format!(
            r#"{{"image": "{image}", "controlPlane": "c:15012", "controlPlaneIdentity": "spiffe://x"}}"#
        )
    }

    #[test]
    fn a_change_is_taken_and_a_broken_file_keeps_the_last_good_settings() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("injector.json");
        assert!(matches!(
            SettingsFile::open(&path),
            Err(SettingsError::Read { .. })
        ));
        std::fs::write(&path, "{\"image\": 1}").unwrap();
        assert!(matches!(
            SettingsFile::open(&path),
            Err(SettingsError::Parse { .. })
        ));
        std::fs::write(&path, text("proxy:1")).unwrap();
        let mut file = SettingsFile::open(&path).unwrap();
        let settings = file.settings();
        let image = || settings.borrow().image.clone();
        assert_eq!(image(), "proxy:1");

        std::fs::write(&path, text("proxy:2")).unwrap();
        file.look().unwrap();
        assert_eq!(image(), "proxy:2");

        let unknown = text("proxy:3").replace("\"image\"", "\"imaeg\": 1, \"image\"");
        std::fs::write(&path, unknown).unwrap();
        let error = file.look().unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("unknown field `imaeg`"), "{cause}");
        file.look().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(file.look(), Err(SettingsError::Read { .. })));
        file.look().unwrap();
        assert_eq!(image(), "proxy:2");

        std::fs::write(&path, text("proxy:4")).unwrap();
        file.look().unwrap();
        assert_eq!(image(), "proxy:4");
    }
}
