"""What is shown of each kind of result: one module a family, each turning a `Source` into a `Section`."""
