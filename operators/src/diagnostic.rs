//! What `check` says: a finding with its place in the file, its code and the likely fix.
//!
//! Codes are stable: a number is never given to another mistake. Each has a page under `docs/errors/`.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

/// Byte offsets into the topology file.
pub type Span = Range<usize>;

/// Declares the codes: the name used in code, the number users see, and a title.
macro_rules! codes {
    ($($name:ident = $number:literal, $title:literal;)*) => {
        /// The stable code of a finding or of a record's error.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in the order of the numbers.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The number users see: `M0101`.
            pub fn number(self) -> &'static str {
                match self { $(Code::$name => $number,)* }
            }

            /// What the code means, in a few words.
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }

            /// The code of a number such as `M0101`.
            pub fn from_number(number: &str) -> Option<Code> {
                Code::ALL.iter().copied().find(|code| code.number() == number)
            }
        }
    };
}

codes! {
    // The file.
    Syntax = "M0101", "the file is not valid TOML";
    UnknownKey = "M0102", "a key is not known here";
    MissingKey = "M0103", "a key is missing";
    WrongType = "M0104", "a value has the wrong type";
    InvalidDuration = "M0105", "a duration cannot be read";
    InvalidName = "M0106", "a name is not allowed";
    DuplicateName = "M0107", "a name is used twice";
    InvalidChoice = "M0108", "a value is not one of the possible ones";
    OutOfRange = "M0109", "a number is out of range";
    KeysExclude = "M0110", "two keys exclude each other";
    UndefinedVariable = "M0111", "an environment variable is not set";
    UnreadableFile = "M0112", "a file cannot be read";
    EmptyTopology = "M0113", "the topology has no source";
    InvalidTimestamp = "M0114", "a timestamp cannot be read";
    InterpolationNotAllowed = "M0115", "a variable stands where none is read";
    InvalidVariable = "M0116", "a variable is not well formed";
    InvalidSize = "M0117", "a size in bytes cannot be read";
    InvalidAddress = "M0118", "an address cannot be read";
    SecretNotFile = "M0119", "a secret is not read from a file";
    SecurityFields = "M0120", "fields of security do not go together";
    UnknownProperty = "M0121", "a property cannot be set";
    OwnedProperty = "M0122", "a property belongs to the engine";
    // Types and columns.
    UnknownType = "M0201", "a type is not known";
    RecursiveType = "M0202", "a type contains itself";
    KeyValueTypeClash = "M0203", "a column has two types";
    FormatNeedsOneColumn = "M0204", "the format holds exactly one column";
    FormatTypeMismatch = "M0205", "the format cannot hold the column's type";
    TimeColumn = "M0206", "the time column cannot serve as event time";
    ColumnClash = "M0207", "two columns have one name";
    UnknownColumn = "M0208", "a column is not known";
    NoColumns = "M0209", "no column is left";
    SchemaFile = "M0211", "a schema cannot be used";
    SchemaColumns = "M0212", "a schema does not fit the columns";
    SchemaSubject = "M0213", "no subject names a schema";
    // Nodes and the graph.
    UnknownNode = "M0301", "a node is not known";
    UnknownOutput = "M0302", "a node has no such output";
    UnknownOperator = "M0303", "an operator is not known";
    Cycle = "M0304", "steps form a cycle";
    WrongInputKind = "M0305", "the operator takes another kind of input";
    UnusedNode = "M0306", "nothing reads the node";
    DuplicateTopic = "M0307", "a topic is read twice";
    SinkWritesSource = "M0308", "a sink writes a topic which the topology reads";
    NoKey = "M0309", "the stream has no key";
    SchemasDiffer = "M0310", "merged streams differ";
    PartitionCounts = "M0311", "partition counts differ";
    DuplicateInput = "M0312", "an input is named twice";
    DuplicateBranch = "M0313", "a branch is named twice";
    TopicName = "M0314", "a topic name is not allowed";
    OutputNeeded = "M0315", "a node has several outputs and one must be named";
    OwnTopic = "M0316", "a topic belongs to the application itself";
    JoinKeys = "M0317", "the inputs of a join have different keys";
    GlobalRead = "M0321", "a global table is read by something else than a join";
    GlobalKey = "M0322", "a join does not say which row of a global table it looks up";
    GlobalField = "M0323", "a field is not for global tables";
    // SQL.
    SqlSyntax = "M0401", "an expression is not valid SQL";
    SqlUnknownColumn = "M0402", "an expression names an unknown column";
    SqlUnknownFunction = "M0403", "an expression calls an unknown function";
    SqlTypes = "M0404", "types in an expression do not fit";
    SqlNotBoolean = "M0405", "a condition is not a bool";
    SqlNotAllowed = "M0406", "SQL that is not allowed here";
    SqlNotImmutable = "M0407", "a function whose result can change";
    SqlStringNumber = "M0408", "a string is compared or mixed with a number";
    SqlAggregateNeeded = "M0409", "an aggregate is needed";
    SqlAggregateNotAllowed = "M0410", "an aggregate is not allowed here";
    SqlNestedAggregate = "M0411", "an aggregate inside an aggregate";
    SqlUnknownAggregate = "M0412", "an aggregate is not offered";
    SqlConstantFails = "M0413", "a constant expression fails";
    SqlArguments = "M0414", "a function gets the wrong arguments";
    SqlResultType = "M0415", "the result's type cannot be a column";
    SqlColumnOutsideAggregate = "M0416", "a column stands outside of an aggregate";
    SqlNumber = "M0417", "a number is larger than a column can hold";
    // Windows and time.
    EmitCloseNeedsWindow = "M0501", "emit close needs a window";
    InvalidWindow = "M0502", "a window is impossible";
    RetainNeedsNoWindow = "M0503", "retain is for aggregates without a window";
    GraceNeedsWindow = "M0504", "grace is for windows";
    Within = "M0505", "a bound in time is for joins of two streams, which need it";
    SuppressNeedsWindow = "M0510", "suppress waits for windows that close";
    // Models.
    UnknownModel = "M0601", "a model is not known";
    ModelFolder = "M0602", "a model folder cannot be used";
    ModelInputs = "M0603", "the inputs do not fit the model";
    ModelOutputs = "M0604", "the outputs do not fit the model";
    UnusedModel = "M0605", "no step uses the model";
    // Tests.
    TestRecord = "M0701", "a test's record does not fit its source";
    TestExpectation = "M0702", "a test's expectation does not fit its node";
    TestEmpty = "M0703", "a test expects nothing";
    // Records: the reason in a log line, a dead letter or a stopped run.
    RecordDecode = "M0801", "a record's value cannot be decoded";
    RecordKey = "M0802", "a record's key cannot be decoded";
    RecordTime = "M0803", "a record's event time is not usable";
    RecordExpression = "M0804", "an expression fails on a record";
    RecordOverflow = "M0805", "an aggregate overflows";
    RecordPrediction = "M0806", "a model cannot score a record";
    RecordEncode = "M0807", "a record cannot be encoded";
    RecordHeader = "M0808", "a record's header cannot be decoded";
    RecordMatches = "M0809", "a row has too many matches";
    RecordSuppress = "M0811", "more rows wait than may";
    RecordProcessor = "M0812", "a processor fails on a row";
    // Running.
    StateInUse = "M0901", "the state directory is in use";
    StateMismatch = "M0902", "the state belongs to something else";
    StateDamaged = "M0903", "the state is damaged";
    FeedInput = "M0904", "an input file cannot be fed";
    PipeInput = "M0905", "a line of pipe input cannot be read";
    TopicMissing = "M0910", "a topic does not exist";
    TopicPartitions = "M0911", "an internal topic has another partition count";
    TopicSetting = "M0912", "an internal topic has another setting";
    TopicRetention = "M0913", "a topic keeps records for less time than is looked back";
    TopicPermission = "M0914", "a permission for a topic is missing";
    TableTopic = "M0915", "a table's topic forgets rows";
    ListenAddress = "M0920", "the address of the HTTP server cannot be had";
    RegistryMissing = "M0941", "the topology names no schema registry";
    RegistrySchema = "M0942", "a schema of the registry does not fit";
    RegistryFailed = "M0943", "the schema registry has no answer";
    OffsetsForgotten = "M0951", "there is state, and no committed offset";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

/// How bad a finding is: an error stops the command, a warning does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The topology cannot run.
    Error,
    /// The topology runs, but probably not as meant.
    Warning,
}

/// Another place that belongs to a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What is to be seen there.
    pub text: String,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The stable code.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// What was found and what was expected: lower case, no full stop.
    pub message: String,
    /// The words concerned.
    pub span: Span,
    /// What to say at the words themselves; may be empty.
    pub label: String,
    /// Other places that belong to it.
    pub labels: Vec<Label>,
    /// The likely fix.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(code: Code, span: Span, message: impl Into<String>) -> Self {
        Diagnostic {
            code,
            severity: Severity::Error,
            message: message.into(),
            span,
            label: String::new(),
            labels: Vec::new(),
            help: None,
        }
    }

    /// A warning at `span`.
    pub fn warning(code: Code, span: Span, message: impl Into<String>) -> Self {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, span, message) }
    }

    /// Adds the likely fix.
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    /// Adds the fix if there is one.
    pub fn help_if(mut self, text: Option<String>) -> Self {
        self.help = text.or(self.help);
        self
    }

    /// Says something at the words themselves.
    pub fn label(mut self, text: impl Into<String>) -> Self {
        self.label = text.into();
        self
    }

    /// Adds another place.
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }
}

/// Collects findings; shared by everything that reads one file.
#[derive(Debug, Default)]
pub struct Diagnostics(RefCell<Vec<Diagnostic>>);

impl Diagnostics {
    /// Adds a finding.
    pub fn push(&self, diagnostic: Diagnostic) {
        self.0.borrow_mut().push(diagnostic);
    }

    /// Whether an error was found.
    pub fn has_errors(&self) -> bool {
        self.any(|found| found.severity == Severity::Error)
    }

    /// Whether something of the kind was found.
    pub fn any(&self, is_meant: impl Fn(&Diagnostic) -> bool) -> bool {
        self.0.borrow().iter().any(is_meant)
    }

    /// All findings, by position in the file.
    pub fn into_sorted(self) -> Vec<Diagnostic> {
        let mut all = self.0.into_inner();
        all.sort_by_key(|found| (found.span.start, found.span.end, found.code));
        all.dedup();
        all
    }
}

/// The candidate nearest to `word`, as a help text, if one is near enough to be meant.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let length = word.chars().count();
    let limit = (length / 3).max(1);
    let same_but_for_case = |candidate: &str| candidate.to_lowercase() == word.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| match same_but_for_case(candidate) {
            true => (0, candidate),
            false => (strsim::damerau_levenshtein(word, candidate), candidate),
        })
        // A word of which nothing is left is no misspelling.
        .filter(|(distance, _)| *distance <= limit && (*distance == 0 || *distance < length))
        .min()
        .map(|(_, candidate)| did_you_mean_this(candidate))
}

/// The help text that proposes `candidate`.
pub fn did_you_mean_this(candidate: &str) -> String {
    format!("did you mean `{candidate}`?")
}

/// `a`, `b` and `c`, for messages that list what is possible.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "nothing".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
