//! A page per code: what it means, an example, the fix.

use millstream_operators::diagnostic::Code;

macro_rules! pages {
    ($($number:literal)*) => {
        /// The pages of `docs/errors`, by number.
        const PAGES: &[(&str, &str)] =
            &[$(($number, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/errors/", $number, ".md"))),)*];
    };
}

pages! {
    "M0101" "M0102" "M0103" "M0104" "M0105" "M0106" "M0107" "M0108" "M0109" "M0110"
    "M0111" "M0112" "M0113" "M0114" "M0115" "M0116" "M0117" "M0118" "M0119" "M0120"
    "M0121" "M0122" "M0201" "M0202"
    "M0203" "M0204" "M0205" "M0206" "M0207" "M0208" "M0209" "M0211" "M0212" "M0213" "M0301" "M0302" "M0303"
    "M0304" "M0305" "M0306" "M0307" "M0308" "M0309" "M0310" "M0311" "M0312" "M0313"
    "M0314" "M0315" "M0316" "M0317" "M0321" "M0322" "M0323" "M0401" "M0402" "M0403" "M0404" "M0405" "M0406" "M0407" "M0408"
    "M0409" "M0410" "M0411" "M0412" "M0413" "M0414" "M0415" "M0416" "M0417" "M0501" "M0502"
    "M0503" "M0504" "M0505" "M0510" "M0601" "M0602" "M0603" "M0604" "M0605" "M0701" "M0702" "M0703"
    "M0801" "M0802" "M0803" "M0804" "M0805" "M0806" "M0807" "M0808" "M0809" "M0811" "M0812" "M0901" "M0902"
    "M0903" "M0904" "M0905" "M0910" "M0911" "M0912" "M0913" "M0914" "M0915" "M0920" "M0941" "M0942" "M0943"
    "M0951"
}

/// The page of a code, in Markdown.
pub fn explain(code: Code) -> Option<&'static str> {
    PAGES.iter().find(|(number, _)| *number == code.number()).map(|(_, page)| *page)
}
