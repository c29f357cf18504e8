# Fails when an object file compiled for one instruction set defines a symbol that other object files may share.
#
# A std:: function or a template that the compiler did not inline becomes a weak symbol, and the linker keeps one copy for
# the whole module: perhaps the AVX-512 one, which then runs on processors without AVX-512. So every symbol defined here
# must lie in the namespace of its instruction set, fastflow::cpu::<isa>, or be local to its object file.
#
# Called with -DNM=<nm> -DISA=<name> -DOBJECTS=<list of object files>.

string(LENGTH "${ISA}" length)
set(namespace "N8fastflow3cpu${length}${ISA}") # as the Itanium C++ ABI spells fastflow::cpu::<isa>

foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND "${NM}" --defined-only --extern-only "${object}"
                  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  foreach(line IN LISTS symbols)
    # DW.ref and the sanitizers' symbols are data without code.
    if(NOT line MATCHES "${namespace}|DW\\.ref\\.|__odr_asan|__asan_|__ubsan_")
      message(FATAL_ERROR "${object}, compiled for ${ISA}, defines a symbol outside fastflow::cpu::${ISA}: ${line}\n"
                          "See csrc/cpu/isa.hpp for what such a source may use.")
    endif()
  endforeach()
endforeach()
