//! An ONNX file as a graph of operators.
//!
//! A `Graph` is well-formed whatever the file holds: every name is defined before it is used (so there are no
//! cycles), no tensor is larger than the bytes the file has for it, and nothing lies in another file.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use tract_onnx::pb::tensor_proto::{DataLocation, DataType};
use tract_onnx::pb::tensor_shape_proto::dimension;
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, type_proto,
};
use tract_onnx::prelude::Framework;

use super::ModelError;
use super::tensor::ElementType;

/// An ONNX model that was read and checked.
pub(super) struct Graph {
    file: PathBuf,
    proto: ModelProto,
    graph: GraphProto,
    /// The node that makes a tensor.
    producers: HashMap<String, usize>,
    constants: HashMap<String, usize>,
}

/// An input of the graph as the file declares it.
pub(super) struct GraphInput<'a> {
    pub name: &'a str,
    /// `Err` holds the name of a type that no column can have.
    pub element_type: Result<ElementType, String>,
    /// The dimensions after the batch; `None` if the file leaves one open.
    pub row_shape: Option<Vec<usize>>,
    /// The batch dimension if the file fixes it.
    pub batch: Option<i64>,
}

impl Graph {
    /// Reads `model.onnx`.
    pub fn read(file: &Path, bytes: &[u8]) -> Result<Graph, ModelError> {
        let proto = tract_onnx::onnx().proto_model_for_read(&mut &*bytes).map_err(|error| {
            let message =
                format!("this is no ONNX model ({error}); the file is truncated or of another kind");
            ModelError::Graph { file: file.to_owned(), message }
        })?;
        Graph::new(file, proto)
    }

    /// Checks a model that was read from `file`.
    fn new(file: &Path, mut proto: ModelProto) -> Result<Graph, ModelError> {
        let fail = |message: String| ModelError::Graph { file: file.to_owned(), message };
        let Some(graph) = proto.graph.take().filter(|graph| !graph.node.is_empty()) else {
            return Err(fail(
                "this is no ONNX model (it has no graph); the file is truncated or of another kind".into(),
            ));
        };
        let imported =
            |domain: &str| proto.opset_import.iter().any(|import| same_domain(&import.domain, domain));
        if let Some(node) = graph.node.iter().find(|node| !imported(&node.domain)) {
            let message =
                format!("no version is stated for the operator `{}`; the file is truncated", operator(node));
            return Err(fail(message));
        }
        check_tensors(&graph).map_err(fail)?;
        let constants: HashMap<_, _> = graph
            .initializer
            .iter()
            .enumerate()
            .map(|(index, tensor)| (tensor.name.clone(), index))
            .collect();
        let producers = check_names(&graph).map_err(fail)?;
        Ok(Graph { file: file.to_owned(), proto, graph, producers, constants })
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// An error of this file.
    pub fn error(&self, message: impl Into<String>) -> ModelError {
        ModelError::Graph { file: self.file.clone(), message: message.into() }
    }

    /// The inputs that have to be given.
    pub fn inputs(&self) -> Vec<GraphInput<'_>> {
        let given = |input: &&ValueInfoProto| !self.constants.contains_key(&input.name);
        self.graph.input.iter().filter(given).map(describe).collect()
    }

    /// The names of the outputs.
    pub fn outputs(&self) -> Vec<&str> {
        self.graph.output.iter().map(|output| output.name.as_str()).collect()
    }

    /// The node that makes a tensor, and which of its outputs it is; none for inputs and constants.
    pub fn producer(&self, tensor: &str) -> Option<(&NodeProto, usize)> {
        let node = self.graph.node.get(*self.producers.get(tensor)?)?;
        Some((node, node.output.iter().position(|output| output == tensor)?))
    }

    /// The only element of a constant float32 tensor.
    pub fn scalar(&self, tensor: &str) -> Option<f32> {
        let tensor = self.graph.initializer.get(*self.constants.get(tensor)?)?;
        if tensor.data_type != DataType::Float as i32 || tensor.dims.iter().any(|dim| *dim != 1) {
            return None;
        }
        match tensor.float_data.as_slice() {
            [value] => Some(*value),
            _ => Some(f32::from_le_bytes(tensor.raw_data.as_slice().try_into().ok()?)),
        }
    }

    /// The nodes that the outputs need, in the order of the file.
    pub fn needed(&self, outputs: &[&str]) -> Vec<&NodeProto> {
        let mut needed = HashSet::new();
        let mut open: Vec<&str> = outputs.to_vec();
        while let Some(tensor) = open.pop() {
            if let Some(index) = self.producers.get(tensor)
                && needed.insert(*index)
                && let Some(node) = self.graph.node.get(*index)
            {
                uses(node, &mut open);
            }
        }
        let mut order: Vec<_> = needed.into_iter().collect();
        order.sort_unstable();
        order.into_iter().filter_map(|index| self.graph.node.get(index)).collect()
    }

    /// The same model reduced to what the outputs need, with these outputs in this order.
    pub fn reduced(&self, outputs: &[&str]) -> ModelProto {
        let nodes: Vec<NodeProto> = self.needed(outputs).into_iter().cloned().collect();
        let mut used: Vec<&str> = outputs.to_vec();
        nodes.iter().for_each(|node| uses(node, &mut used));
        let used: HashSet<&str> = used.into_iter().collect();
        let output = |name: &&str| ValueInfoProto { name: (*name).to_owned(), ..Default::default() };
        let graph = GraphProto {
            name: self.graph.name.clone(),
            initializer: self
                .graph
                .initializer
                .iter()
                .filter(|t| used.contains(t.name.as_str()))
                .cloned()
                .collect(),
            input: self.graph.input.clone(),
            output: outputs.iter().map(output).collect(),
            node: nodes.clone(),
            ..Default::default()
        };
        ModelProto { graph: Some(graph), ..self.proto.clone() }
    }
}

/// The name of an operator as messages show it.
pub(super) fn operator(node: &NodeProto) -> String {
    if node.domain.is_empty() { node.op_type.clone() } else { format!("{}.{}", node.domain, node.op_type) }
}

/// Whether two names mean the same set of operators: ONNX's own has two.
fn same_domain(a: &str, b: &str) -> bool {
    let own = |domain: &str| matches!(domain, "" | "ai.onnx");
    a == b || (own(a) && own(b))
}

/// An attribute by its name.
pub(super) fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn describe(input: &ValueInfoProto) -> GraphInput<'_> {
    let tensor = input.r#type.as_ref().and_then(|kind| kind.value.as_ref()).map(|value| {
        let type_proto::Value::TensorType(tensor) = value;
        tensor
    });
    let element_type = match tensor.and_then(|tensor| DataType::try_from(tensor.elem_type).ok()) {
        Some(DataType::Float) => Ok(ElementType::Float32),
        Some(DataType::Double) => Ok(ElementType::Float64),
        Some(DataType::Int64) => Ok(ElementType::Int64),
        Some(DataType::Int32) => Ok(ElementType::Int32),
        Some(DataType::Bool) => Ok(ElementType::Bool),
        Some(other) => Err(format!("{other:?}").to_lowercase()),
        None => Err("no tensor".to_owned()),
    };
    let shape: Option<Vec<Option<i64>>> = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| {
        let size = |value: &dimension::Value| match value {
            dimension::Value::DimValue(size) if *size > 0 => Some(*size),
            _ => None,
        };
        shape.dim.iter().map(|dim| dim.value.as_ref().and_then(size)).collect()
    });
    let row_shape = shape.as_ref().and_then(|shape| {
        shape.iter().skip(1).map(|dim| dim.and_then(|size| usize::try_from(size).ok())).collect()
    });
    let batch = shape.and_then(|shape| shape.first().copied().flatten());
    GraphInput { name: &input.name, element_type, row_shape, batch }
}

/// Adds the tensors a node reads, those of its sub-graphs included.
fn uses<'a>(node: &'a NodeProto, names: &mut Vec<&'a str>) {
    names.extend(node.input.iter().map(String::as_str).filter(|name| !name.is_empty()));
    for attribute in &node.attribute {
        for graph in attribute.g.iter().chain(&attribute.graphs) {
            graph.node.iter().for_each(|inner| uses(inner, names));
            names.extend(graph.output.iter().map(|output| output.name.as_str()));
        }
    }
}

/// Checks that every name is defined once, before its use; gives the node that makes each tensor.
fn check_names(graph: &GraphProto) -> Result<HashMap<String, usize>, String> {
    let mut defined: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    defined.extend(graph.input.iter().map(|input| input.name.as_str()));
    let mut producers = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for input in node.input.iter().filter(|input| !input.is_empty()) {
            if !defined.contains(input.as_str()) {
                return Err(format!(
                    "operator `{}` reads `{input}`, which nothing before it makes; the graph is damaged or \
                     has a cycle: export it again",
                    operator(node)
                ));
            }
        }
        for output in node.output.iter().filter(|output| !output.is_empty()) {
            if !defined.insert(output) {
                return Err(format!("`{output}` is made twice; the graph is damaged: export it again"));
            }
            producers.insert(output.clone(), index);
        }
    }
    match graph.output.iter().find(|output| !defined.contains(output.name.as_str())) {
        Some(output) => {
            Err(format!("nothing makes the output `{}`; the graph is damaged: export it again", output.name))
        }
        None => Ok(producers),
    }
}

/// Checks that the tensors of the graph have the bytes that their shapes promise, and have them in this file.
fn check_tensors(graph: &GraphProto) -> Result<(), String> {
    if !graph.sparse_initializer.is_empty() {
        return Err("it has sparse tensors, which are not supported; export it with dense ones".to_owned());
    }
    graph.initializer.iter().try_for_each(check_tensor)?;
    for attribute in graph.node.iter().flat_map(|node| &node.attribute) {
        attribute.t.iter().chain(&attribute.tensors).try_for_each(check_tensor)?;
        attribute.g.iter().chain(&attribute.graphs).try_for_each(check_tensors)?;
    }
    Ok(())
}

fn check_tensor(tensor: &TensorProto) -> Result<(), String> {
    let name = &tensor.name;
    if tensor.data_location == Some(DataLocation::External as i32) || !tensor.external_data.is_empty() {
        return Err(format!(
            "tensor `{name}` lies in another file; save the model with all its tensors inside"
        ));
    }
    let (size, typed) = match DataType::try_from(tensor.data_type) {
        Ok(DataType::Float) => (4, tensor.float_data.len()),
        Ok(DataType::Double) => (8, tensor.double_data.len()),
        Ok(DataType::Int64) => (8, tensor.int64_data.len()),
        Ok(DataType::Uint64) => (8, tensor.uint64_data.len()),
        Ok(DataType::Int32) => (4, tensor.int32_data.len()),
        Ok(DataType::Uint32) => (4, tensor.uint64_data.len()),
        Ok(DataType::Float16 | DataType::Int16 | DataType::Uint16) => (2, tensor.int32_data.len()),
        Ok(DataType::Bool | DataType::Int8 | DataType::Uint8) => (1, tensor.int32_data.len()),
        Ok(DataType::String) => (0, tensor.string_data.len()),
        _ => return Err(format!("tensor `{name}` has an unknown element type ({})", tensor.data_type)),
    };
    let product = |count: usize, dim: &i64| count.checked_mul(usize::try_from(*dim).ok()?);
    let count = tensor.dims.iter().try_fold(1, product);
    let found =
        if tensor.raw_data.is_empty() { Some(typed) } else { tensor.raw_data.len().checked_div(size) };
    let whole = size == 0 || tensor.raw_data.len().is_multiple_of(size);
    if count.is_none() || count != found || !whole {
        return Err(format!(
            "tensor `{name}` should have the shape {:?}, but has {} elements; the file is damaged: export it again",
            tensor.dims,
            found.unwrap_or_default()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::OperatorSetIdProto;

    use super::*;

    fn node(op_type: &str, input: &[&str], output: &[&str]) -> NodeProto {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        NodeProto {
            op_type: op_type.to_owned(),
            input: names(input),
            output: names(output),
            ..Default::default()
        }
    }

    fn value(name: &str) -> ValueInfoProto {
        ValueInfoProto { name: name.to_owned(), ..Default::default() }
    }

    fn read(graph: GraphProto) -> Result<Graph, String> {
        let graph = GraphProto { input: vec![value("x")], output: vec![value("y")], ..graph };
        let opset_import = vec![OperatorSetIdProto { version: 18, ..Default::default() }];
        let proto = ModelProto { graph: Some(graph), opset_import, ..Default::default() };
        Graph::new(Path::new("model.onnx"), proto).map_err(|error| error.to_string())
    }

    fn with_constant(tensor: TensorProto) -> Result<Graph, String> {
        read(GraphProto {
            node: vec![node("Add", &["x", "c"], &["y"])],
            initializer: vec![TensorProto {
                name: "c".to_owned(),
                data_type: DataType::Float as i32,
                ..tensor
            }],
            ..Default::default()
        })
    }

    #[test]
    fn nodes_that_form_a_cycle_are_refused() {
        let nodes = vec![
            node("Add", &["x", "b"], &["a"]),
            node("Identity", &["a"], &["b"]),
            node("Neg", &["b"], &["y"]),
        ];
        let error = read(GraphProto { node: nodes, ..Default::default() }).err().unwrap();
        assert!(
            error.starts_with("model.onnx: operator `Add` reads `b`, which nothing before it makes"),
            "{error}"
        );
    }

    #[test]
    fn an_output_that_nothing_makes_is_refused() {
        let error =
            read(GraphProto { node: vec![node("Neg", &["x"], &["z"])], ..Default::default() }).err().unwrap();
        assert!(error.contains("nothing makes the output `y`"), "{error}");
    }

    #[test]
    fn tensors_have_the_size_their_shape_promises() {
        assert!(
            with_constant(TensorProto { dims: vec![2], float_data: vec![1.0, 2.0], ..Default::default() })
                .is_ok()
        );
        assert!(
            with_constant(TensorProto { dims: vec![2], raw_data: vec![0; 8], ..Default::default() }).is_ok()
        );
        for tensor in [
            TensorProto { dims: vec![1 << 40], float_data: vec![1.0], ..Default::default() },
            TensorProto { dims: vec![1 << 40, 1 << 40], raw_data: vec![0; 8], ..Default::default() },
            TensorProto { dims: vec![-1], float_data: vec![1.0], ..Default::default() },
            TensorProto { dims: vec![2], raw_data: vec![0; 9], ..Default::default() },
        ] {
            let error = with_constant(tensor).err().unwrap();
            assert!(error.contains("tensor `c` should have the shape"), "{error}");
        }
    }

    #[test]
    fn tensors_in_other_files_are_refused() {
        let location = Some(DataLocation::External as i32);
        let error =
            with_constant(TensorProto { data_location: location, ..Default::default() }).err().unwrap();
        assert!(error.contains("tensor `c` lies in another file"), "{error}");
    }

    #[test]
    fn only_what_the_outputs_need_is_kept() {
        let graph = GraphProto {
            node: vec![node("Neg", &["x"], &["y"]), node("Unheard", &["x"], &["label"])],
            ..Default::default()
        };
        let graph = read(graph).ok().unwrap();
        let operators: Vec<String> = graph.needed(&["y"]).into_iter().map(operator).collect();
        assert_eq!(operators, ["Neg"]);
        assert_eq!(graph.reduced(&["y"]).graph.unwrap().node.len(), 1);
    }
}
