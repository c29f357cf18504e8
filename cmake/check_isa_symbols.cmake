# Fails when an object file compiled for one instruction set has code that other processors may run.
#
# A std:: function or a template that the compiler did not inline becomes a weak symbol, and the linker keeps one copy for
# the whole module: perhaps the AVX-512 one, which then runs on processors without AVX-512. So the name of every symbol
# that an object file shares must contain the namespace of its instruction set, fastflow::cpu::<isa>. And an initialiser
# would run when the module is loaded, whatever the processor.
#
# Called with -DNM=<nm> -DISA=<name> -DOBJECTS=<list of object files>.

string(LENGTH "${ISA}" length)
set(namespace "NK?8fastflow3cpu${length}${ISA}") # as the Itanium C++ ABI spells it; K for const members

foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND "${NM}" --defined-only "${object}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[^\n]+" symbols "${symbols}")
  foreach(line IN LISTS symbols)
    # AddressSanitizer gives every object file an initialiser, with this number in its name.
    if(line MATCHES "_GLOBAL__sub_I_" AND NOT line MATCHES "_GLOBAL__sub_I_00099")
      message(FATAL_ERROR "${object}, compiled for ${ISA}, initialises an object when the module is loaded: ${line}\n"
                          "Make it constexpr; see csrc/cpu/kernels/isa.hpp.")
    endif()
    # nm marks what an object file keeps to itself with a small letter; DW.ref is data of the unwinder.
    if(line MATCHES " [A-Zuvw] " AND NOT line MATCHES "${namespace}|DW\\.ref\\.|__odr_asan|__asan_|__ubsan_")
      message(FATAL_ERROR "${object}, compiled for ${ISA}, shares a symbol outside fastflow::cpu::${ISA}: ${line}\n"
                          "See csrc/cpu/kernels/isa.hpp for what such a source may use.")
    endif()
  endforeach()
endforeach()
