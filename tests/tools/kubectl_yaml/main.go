// Prints how kubectl reads each of the texts in cases.go, as the JSON table that the manifest reader is tested against.
//
//	go run . > ../../unit/operator/data/kubectl_yaml.json
//
// A text goes the way it goes in `kubectl apply`: the stream decoder of the resource builder, empty documents left out, and the
// conversion to unstructured objects, whose numbers are int64 where they fit and float64 otherwise.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

type result struct {
	Name      string `json:"name"`
	Text      string `json:"text"`
	Documents []any  `json:"documents"`
	Error     string `json:"error,omitempty"`
}

func read(text string) ([]any, error) {
	decoder := utilyaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	documents := []any{}
	for {
		extension := runtime.RawExtension{}
		if err := decoder.Decode(&extension); err == io.EOF {
			return documents, nil
		} else if err != nil {
			return nil, err
		}
		raw := bytes.TrimSpace(extension.Raw)
		if len(raw) == 0 || string(raw) == "null" {
			continue
		}
		var document any
		if err := utiljson.Unmarshal(raw, &document); err != nil {
			return nil, err
		}
		documents = append(documents, document)
	}
}

func main() {
	results := []result{}
	add := func(name, text string) {
		documents, err := read(text)
		each := result{Name: name, Text: text, Documents: documents}
		if err != nil {
			each.Error = err.Error()
		}
		results = append(results, each)
	}
	for _, scalar := range scalars {
		add("the value "+scalar, "v: "+scalar+"\n")
	}
	for _, key := range keys {
		add("the key "+key, key+": v\n")
	}
	for _, each := range texts {
		add(each.name, each.text)
	}
	lines := make([]string, len(results))
	for place, each := range results {
		line := &bytes.Buffer{}
		encoder := json.NewEncoder(line)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(each); err != nil {
			panic(err)
		}
		lines[place] = strings.TrimSpace(line.String())
	}
	fmt.Printf("[\n%s\n]\n", strings.Join(lines, ",\n"))
}
