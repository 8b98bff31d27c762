package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is the longest line of the help.
const helpWidth = 110

// writeUsage prints how to call cmd. It is cobra's own form, but for flags that are on or off: pflag prints them as
// --init[=true|false].
func writeUsage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	fmt.Fprintf(w, "Usage:\n  %s\n", useLine(cmd))
	if cmd.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", cmd.Example)
	}
	if subs := visible(cmd); len(subs) > 0 {
		fmt.Fprintf(w, "\nVerbs:\n")
		var rows [][2]string
		for _, sub := range subs {
			rows = append(rows, [2]string{sub.Name(), sub.Short})
		}
		writeColumns(w, rows)
	}
	for _, set := range []struct {
		title string
		flags *pflag.FlagSet
	}{{"Flags", cmd.NonInheritedFlags()}, {"Flags of all verbs", cmd.InheritedFlags()}} {
		if !set.flags.HasAvailableFlags() {
			continue
		}
		fmt.Fprintf(w, "\n%s:\n", set.title)
		var rows [][2]string
		set.flags.VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				tag, usage := flagText(f)
				rows = append(rows, [2]string{tag, usage})
			}
		})
		writeColumns(w, rows)
	}
	if !cmd.HasParent() {
		fmt.Fprintf(w, "\nMore: kmsfs VERB --help, kmsfs help exit-codes\n")
	}
	return nil
}

// useLine is how to write cmd.
func useLine(cmd *cobra.Command) string {
	if len(visible(cmd)) > 0 {
		return cmd.CommandPath() + " VERB"
	}
	return cmd.UseLine()
}

// flagText is a flag as it is written, and what it does.
func flagText(f *pflag.Flag) (tag, usage string) {
	value, usage := pflag.UnquoteUsage(f)
	tag = "    --" + f.Name
	if f.Shorthand != "" {
		tag = "-" + f.Shorthand + ", --" + f.Name
	}
	if f.Value.Type() != "bool" && value != "" {
		tag += " " + value
	}
	return tag, usage
}

// writeColumns prints two columns, the second in lines of its own width.
func writeColumns(w io.Writer, rows [][2]string) {
	widest := 0
	for _, row := range rows {
		widest = max(widest, len(row[0]))
	}
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		first := row[0]
		for _, line := range wrap(row[1], helpWidth-widest-5) {
			fmt.Fprintf(t, "  %s\t%s\n", first, line)
			first = ""
		}
	}
	t.Flush()
}

// wrap breaks text into lines of at most width bytes, where there are spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
