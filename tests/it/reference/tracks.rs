//! What the track list says about a track. Names are compared without regard to case.

/// The list is data, so both sides read the same file.
const TRACKS: &str = include_str!("../../../sql/data/tracks.csv");

/// A line of the list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Track {
    pub(super) location: &'static str,
    pub(super) direction: &'static str,
    pub(super) category: &'static str,
    pub(super) surface: &'static str,
    pub(super) is_metro_venue: bool,
}

/// "Unlisted tracks: AU, anticlockwise, Country, Turf."
const UNLISTED: Track =
    Track { location: "AU", direction: "anticlockwise", category: "Country", surface: "Turf", is_metro_venue: false };

/// The track of this name.
pub(super) fn track(name: &str) -> Track {
    let line = TRACKS.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let mut listed = line.filter(|fields| fields[0].to_lowercase() == name.to_lowercase());
    listed.next().map_or(UNLISTED, |fields| Track {
        location: fields[1],
        direction: fields[2],
        category: fields[3],
        surface: fields[4],
        is_metro_venue: fields[5] == "true",
    })
}

/// The standardised name.
pub(super) fn standard_name(filed: Option<&str>) -> String {
    let Some(filed) = filed else { return "Unknown".to_owned() };
    let name = filed.to_lowercase();
    let is_racecourse = |of: &str| name.split_once(of).is_some_and(|(_, rest)| rest.contains("racecourse"));
    match () {
        () if name.contains("randwick") => "Randwick",
        () if name.contains("moonee valley") => "Moonee Valley",
        () if is_racecourse("flemington") => "Flemington",
        () if is_racecourse("caulfield") => "Caulfield",
        () => filed,
    }
    .to_owned()
}
