package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"had/internal/policy"
)

// schemaVersion of had's JSON answers; it grows when a field changes meaning.
const schemaVersion = 1

// outputFlag is --output.
type outputFlag struct{ form string }

func (o *outputFlag) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.form, "output", "o", "table", "form of the answer: table or json")
}

func (o *outputFlag) check() error {
	if o.form != "table" && o.form != "json" {
		return usageError{fmt.Errorf("--output %q: choose table or json", o.form)}
	}
	return nil
}

// print writes v as JSON, or the text.
func (o *outputFlag) print(w io.Writer, v any, text string) error {
	if o.form == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	_, err := io.WriteString(w, text)
	return err
}

// finding is a diagnostic in JSON.
type finding struct {
	Severity string `json:"severity"`
	File     string `json:"file"`
	Line     int    `json:"line"`
	Column   int    `json:"column"`
	Summary  string `json:"summary"`
	Detail   string `json:"detail"`
}

func findings(in policy.Diagnostics) []finding {
	out := []finding{} // never null
	for _, d := range in {
		out = append(out, finding{strings.ToLower(d.Severity.String()), d.File, d.Line, d.Column, d.Summary, d.Detail})
	}
	return out
}
